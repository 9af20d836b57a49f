/**
 * A pod's network beside runc's on the same bridge: a transfer each way and a ping-pong, both between the node and a
 * program of the container, started by the node. What is measured is a TCP stream's time on the node's side.
 */
import type { Container } from '#test/cri/container.ts'
import type { Pod } from '#test/cri/pod.ts'
import { inside } from '#test/node/paths.ts'
import type { Benchmark, Series, Unit } from './benchmark.ts'
import { type Lab, microvm, openLab } from './lab.ts'
import { interleave, medianOf } from './sampling.ts'
import { ports } from './vm/network-client.ts'

/** A GiB: under emulation it takes some three seconds. */
const MIB = 1024
const PINGS = 300

const handlers = [microvm, 'runc'] as const
type Handler = (typeof handlers)[number]

/**
 * What the pod serves, with busybox alone: an echo, a source, a sink that says how much it read. By blocks: busybox's `head`
 * and `wc` go byte by byte.
 */
const serve = `
printf '#!/bin/sh\\nexec dd if=/dev/zero bs=1M count=${MIB} 2>/dev/null\\n' >/source; printf '#!/bin/sh\\nexec dd of=/dev/null bs=1M iflag=fullblock 2>&1\\n' >/sink; chmod +x /source /sink
nc -ll -p ${ports.echo} -e cat & nc -ll -p ${ports.source} -e /source & nc -ll -p ${ports.sink} -e /sink & echo serving
trap "exit 0" TERM; while :; do sleep 1 & wait $!; done`

export const network: Benchmark = {
  name: 'network',
  title: 'a pod\'s network, and runc\'s beside it',
  rounds: 5,
  async run(rounds, progress) {
    await using lab = await openLab()
    const addresses = new Map<Handler, string>()
    await using pods = new AsyncDisposableStack()
    for (const handler of handlers) {
      const pod = pods.use(await lab.containerd.cri.runPod({}, handler))
      await served(await pod.run({ command: ['/bin/sh', '-c', serve] }))
      addresses.set(handler, await addressOf(pod))
    }
    const measure = async (what: string, unit: Unit, count: number, value: (ms: number) => number): Promise<Series[]> => {
      const cases = handlers.map((handler) => ({
        name: `${what}, ${handler}`,
        sample: async () => value(await ask(lab, what, addresses.get(handler) ?? '', count)),
      }))
      return interleave(rounds, unit, cases, progress)
    }
    const series = [
      ...(await measure('sink', 'MiB/s', MIB, (ms) => (MIB * 1000) / ms)),
      ...(await measure('source', 'MiB/s', MIB, (ms) => (MIB * 1000) / ms)),
      ...(await measure('echo', 'µs', PINGS, (ms) => (ms * 1000) / PINGS)),
    ]
    const ratio = (what: string) => medianOf(series, `${what}, ${microvm}`) / medianOf(series, `${what}, runc`)
    return {
      series,
      figures: [
        { name: 'throughput to the pod, to runc\'s', value: ratio('sink'), unit: '×' },
        { name: 'throughput from the pod, to runc\'s', value: ratio('source'), unit: '×' },
        { name: 'round trip of one byte, to runc\'s', value: ratio('echo'), unit: '×' },
      ],
      notes: [`${MIB} MiB each way; a round trip is the mean of ${PINGS}.`],
    }
  },
}

const served = (container: Container): Promise<string> => container.outputMatching(/serving/)

async function addressOf(pod: Pod): Promise<string> {
  const { network: status } = await pod.status()
  if (status === null || status === undefined) throw new Error(`pod ${pod.id} has no address`)
  return status.ip
}

/** Milliseconds of one exchange. */
async function ask({ node }: Lab, what: string, address: string, count: number): Promise<number> {
  return Number(await node.run('node', [`${inside.checkout}/bench/vm/network-client.ts`, what, address, `${count}`]))
}
