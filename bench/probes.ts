/**
 * Exec probes as a kubelet sends them, 50 a second on one container for a minute: how many are served, and what the slow
 * ones take. Sent by the clock, whether or not the earlier ones were answered, up to a number that is never reached
 * unless the pod cannot follow; what is not sent then is not served either. `runc` under the same containerd beside it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { explain } from '#shared/errors.ts'
import type { Container } from '#test/cri/container.ts'
import { pidOf } from '#test/support/faults.ts'
import { inside } from '#test/support/kuasar.ts'
import type { Benchmark, Progress, Series } from './benchmark.ts'
import { type Lab, microvm, openLab } from './lab.ts'

const RATE = 50
const IN_FLIGHT_MAX = 64
const P99 = 0.99
const stay = { command: ['/bin/sh', '-c', 'while :; do sleep 3600; done'] }

export const probes: Benchmark = {
  name: 'probes',
  title: `${RATE} exec probes a second`,
  /** Seconds here. */
  rounds: 60,
  async run(seconds, progress) {
    await using lab = await openLab()
    const outcomes: Probed[] = []
    const notes = [`Offered ${RATE}/s for ${seconds} s, at most ${IN_FLIGHT_MAX} at a time.`]
    for (const handler of [microvm, 'runc']) {
      await using pod = await lab.containerd.cri.runPod({}, handler)
      const container = await pod.run(stay)
      await probe(container)
      const before = await open(lab, pod.id, container, handler)
      const outcome = await load(container, handler, seconds, progress)
      outcomes.push(outcome)
      for (const [message, count] of outcome.failures) notes.push(`${handler}, failed ${count} times: ${message}`)
      const after = await open(lab, pod.id, container, handler)
      notes.push(`${handler}, before and after: ${before.map(([what, count], index) => `${what} ${count}, ${after[index]?.[1]}`).join('; ')}.`)
    }
    return {
      series: outcomes.map(({ series }) => series),
      figures: outcomes.flatMap(({ series, servedPerSecond }) => [
        { name: `${series.name}: served`, value: servedPerSecond, unit: 'calls/s' } as const,
        { name: `${series.name}: p99`, value: quantile(series.samples, P99), unit: 'ms' } as const,
      ]),
      notes,
    }
  },
}

interface Probed {
  readonly series: Series
  readonly servedPerSecond: number
  /** Said once each */
  readonly failures: ReadonlyMap<string, number>
}

async function load(container: Container, handler: string, seconds: number, progress: Progress): Promise<Probed> {
  const samples: number[] = []
  const failures = new Map<string, number>()
  const inFlight = new Set<Promise<void>>()
  const startMs = performance.now()
  for (let index = 0; index < seconds * RATE; index++) {
    await sleep(Math.max(0, startMs + (index * 1000) / RATE - performance.now()))
    if (index % (10 * RATE) === 0) progress(`${handler}: ${index / RATE} s, ${samples.length} served`)
    if (inFlight.size >= IN_FLIGHT_MAX) continue
    const sentMs = performance.now()
    const answered = probe(container)
      .then(() => void samples.push(performance.now() - sentMs))
      .catch((error: unknown) => {
        const message = explain(error).replaceAll(/[0-9a-f]{64}/g, '…')
        failures.set(message, (failures.get(message) ?? 0) + 1)
      })
    inFlight.add(answered)
    void answered.finally(() => inFlight.delete(answered))
  }
  const servedInTime = samples.length
  await Promise.all(inFlight)
  return { series: { name: `exec probe, ${handler}`, unit: 'ms', samples }, servedPerSecond: servedInTime / seconds, failures }
}

/** What a leak of execs would add to. The kernel's own count of open files goes in batches of a CPU's. */
async function open({ node, sandboxer, containerd }: Lab, id: string, container: Container, handler: string): Promise<(readonly [what: string, count: number])[]> {
  const shown = async (script: string) => Number(await inside(container, script))
  const common = [
    ['processes in the container', await shown('set -- /proc/[0-9]*; echo $#')],
    ['files containerd has open', (await containerd.service.openFiles()).length],
  ] as const
  if (handler !== microvm) return [...common]
  const helper = await pidOf(node, id, 'vhost-device-vsock')
  return [
    ...common,
    ['files the sandboxer has open', (await sandboxer.service.openFiles()).length],
    ['files the vsock\'s helper has open', Number(await node.run('sh', ['-c', `ls /proc/${helper}/fd | wc -l`]))],
    ['files open in the guest', await shown('read -r open rest </proc/sys/fs/file-nr; echo $open')],
  ]
}

async function probe(container: Container): Promise<void> {
  const { exitCode, stderr } = await container.execSync(['true'])
  if (exitCode !== 0) throw new Error(`a probe ended with ${exitCode}: ${stderr}`)
}

function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}
