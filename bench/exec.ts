/**
 * An exec, ExecSync of `true` through stock containerd's CRI, above its floor: the same program of the same container
 * forked by the same agent without crun, asked for over the same vsock. The agent of this benchmark's image answers that
 * on a port of its own; the product's has no such door. `runc` under the same containerd stands beside it.
 */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { bundleAgent } from '../image/agent.ts'
import { dialHybrid } from '#host/link/dial.ts'
import type { Container } from '#test/cri/container.ts'
import type { Benchmark, Series } from './benchmark.ts'
import { image, microvm, openLab } from './lab.ts'
import { interleave, medianOf, timeMs } from './sampling.ts'
import type { TestNode } from '#test/node/node.ts'
import { vmmOf } from './vm/commands.ts'
import { cpuTimeMs } from './vm/cpu-time.ts'
import { rootfsWithAgent, takeApart } from './vm/image.ts'
import { sandboxDirectory } from './vm/run.ts'

/** Of vm/floor-agent.ts. */
const floorPort = 1027
const names = {
  floor: 'floor: fork by the agent',
  pod: 'ExecSync, kuasar-qemu',
  runc: 'ExecSync, runc',
  floorCpu: 'floor: QEMU\'s CPU time',
  podCpu: 'ExecSync: QEMU\'s CPU time',
} as const
/** Each sample is the mean of so many, for one is short. */
const batch = 5
/** A container that stays. */
const stay = { command: ['/bin/sh', '-c', 'while :; do sleep 3600; done'] }

export const exec: Benchmark = {
  name: 'exec',
  title: 'an exec above its floor, and runc beside it',
  rounds: 10,
  async run(rounds, progress) {
    await using lab = await openLab(async (node) => {
      progress('building an agent that forks without crun')
      return { rootfs: await floorAgentImage(node) }
    })
    const { node, containerd } = lab
    await using pod = await containerd.cri.runPod({}, microvm)
    const container = await pod.run(stay)
    await using runcPod = await containerd.cri.runPod({}, 'runc')
    const runcContainer = await runcPod.run(stay)
    const link = await dialHybrid(node.path(`${sandboxDirectory(pod.id)}/vsock`), floorPort, AbortSignal.timeout(10_000))
    try {
      const program = `/run/kuasar/roots/${container.id}/rootfs/bin/busybox`
      const vmm = await vmmOf(sandboxDirectory(pod.id))
      const cpuMs = { floor: [] as number[], pod: [] as number[] }
      const withCpu = async (into: number[], task: () => Promise<unknown>) => {
        const before = cpuTimeMs(vmm)
        const ms = await meanMs(task)
        into.push((cpuTimeMs(vmm) - before) / batch)
        return ms
      }
      const cases = [
        { name: names.floor, sample: () => withCpu(cpuMs.floor, () => fork(link, program)) },
        { name: names.pod, sample: () => withCpu(cpuMs.pod, () => succeed(container)) },
        { name: names.runc, sample: () => meanMs(() => succeed(runcContainer)) },
      ]
      const timed = await interleave(rounds, 'ms', cases, progress)
      // The first of each was the warm-up.
      const series: Series[] = [
        ...timed,
        { name: names.floorCpu, unit: 'ms', samples: cpuMs.floor.slice(1) },
        { name: names.podCpu, unit: 'ms', samples: cpuMs.pod.slice(1) },
      ]
      const of = (name: string) => medianOf(series, name)
      return {
        series,
        figures: [
          { name: 'exec to its floor', value: of(names.pod) / of(names.floor), unit: '×' },
          { name: 'exec above its floor', value: of(names.pod) - of(names.floor), unit: 'ms', target: { atMost: 60 } },
          { name: 'the same in QEMU\'s CPU time', value: of(names.podCpu) - of(names.floorCpu), unit: 'ms' },
          { name: 'exec to runc\'s', value: of(names.pod) / of(names.runc), unit: '×' },
        ],
        notes: [`Each sample is the mean of ${batch}.`],
      }
    } finally {
      link.destroy()
    }
  },
}

async function floorAgentImage(node: TestNode): Promise<string> {
  const bundle = join(node.dir, 'scratch/floor-agent.cjs')
  await bundleAgent(join(import.meta.dirname, 'vm/floor-agent.ts'), bundle)
  return rootfsWithAgent(node, await takeApart(node, image, 'image'), { bundle, snapshot: true }, 'floor-agent')
}

async function meanMs(task: () => Promise<unknown>): Promise<number> {
  return await timeMs(async () => {
    for (let done = 0; done < batch; done++) await task()
  }) / batch
}

async function succeed(container: Container): Promise<void> {
  const { exitCode, stderr } = await container.execSync(['true'])
  if (exitCode !== 0) throw new Error(`true ended with ${exitCode}: ${stderr}`)
}

async function fork(link: Socket, program: string): Promise<void> {
  link.write(`${program}\n`)
  link.resume()
  const [answer] = await once(link, 'data', { signal: AbortSignal.timeout(30_000) })
  if (String(answer) !== '0\n') throw new Error(`the agent's fork of ${program} ended with ${String(answer).trim()}`)
}
