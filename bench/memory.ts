/**
 * The sandboxer's memory with 0, 1, 10 and 20 pods, and after a hundred more that came and went. Pods of the fake
 * backend: the sandboxer does for them all that it does for a microVM but start one. What is read is the process's own
 * share of resident memory as the kernel counts it (PSS), garbage included: nobody collects it by force.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { startContainerd } from '#test/node/containerd.ts'
import { startNode } from '#test/node/node.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import type { Pod } from '#test/cri/pod.ts'
import type { Benchmark, Figure, Series } from './benchmark.ts'
import { medianOf } from './sampling.ts'

const handler = 'kuasar-fake'
const levels = [0, 1, 10, 20] as const
/** Pods that come and go after the last level. */
const passing = 100
/** Pods of them that live at the same time. */
const parallel = 4
/** Before a reading: calls in flight end, and V8 gives back what it meant to give back anyhow. */
const settleMs = 3000

export const memory: Benchmark = {
  name: 'memory',
  title: `the sandboxer's memory at ${levels.join(', ')} pods, and after ${passing} more that came and went`,
  rounds: 3,
  async run(rounds, progress) {
    const names = [...levels.map(podsName), `${levels.at(-1)} pods, after ${passing} more`, 'idle again']
    const samples = new Map(names.map((name) => [name, [] as number[]]))
    for (let round = 1; round <= rounds; round++) {
      for (const [name, value] of await oneLife()) {
        samples.get(name)?.push(value)
        progress(`round ${round} of ${rounds}: ${name}: ${value} KiB`)
      }
    }
    const series = [...samples].map(([name, samples]): Series => ({ name, unit: 'KiB', samples }))
    return { series, figures: figures(series) }
  },
}

const podsName = (count: number) => `${count} ${count === 1 ? 'pod' : 'pods'}`

/** A sandboxer of its own for every round, for memory has a history. */
async function oneLife(): Promise<[string, number][]> {
  await using node = await startNode()
  await using sandboxer = await startSandboxer(node)
  await using containerd = await startContainerd(node)
  const readings: [string, number][] = []
  const read = async (name: string) => {
    await sleep(settleMs)
    readings.push([name, await proportionalKiB(sandboxer.service.pid)])
  }
  const pods: Pod[] = []
  for (const level of levels) {
    while (pods.length < level) pods.push(await containerd.cri.runPod({}, handler))
    await read(podsName(level))
  }
  for (let done = 0; done < passing; done += parallel) {
    await Promise.all(Array.from({ length: parallel }, async () => (await containerd.cri.runPod({}, handler)).remove()))
  }
  await read(`${levels.at(-1)} pods, after ${passing} more`)
  for (const pod of pods) await pod.remove()
  await read('idle again')
  return readings
}

/** PSS of a process, in KiB. Source: proc(5), smaps_rollup. */
async function proportionalKiB(pid: number): Promise<number> {
  const found = /^Pss:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]
  if (found === undefined) throw new Error(`process ${pid} shows no memory`)
  return Number(found)
}

function figures(series: readonly Series[]): Figure[] {
  const at = (name: string) => medianOf(series, name)
  return [
    { name: 'each pod from the 2nd to the 20th', value: (at('20 pods') - at('1 pod')) / 19, unit: 'KiB', target: { atMost: 1000 } },
    { name: 'each pod from the 11th to the 20th', value: (at('20 pods') - at('10 pods')) / 10, unit: 'KiB' },
    { name: `each of ${passing} pods that came and went`, value: (at(`20 pods, after ${passing} more`) - at('20 pods')) / passing, unit: 'KiB' },
  ]
}
