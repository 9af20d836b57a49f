/**
 * ttrpc calls per second over a unix socket between two processes, ours and Go's, each with itself and with the other,
 * with 1 and with 64 calls in flight. The rounds interleave, so what disturbs the machine disturbs all alike. Every
 * sample is kept in build/bench/ttrpc.json.
 *
 *   node bench/ttrpc.ts [ROUNDS]
 */
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { execa } from 'execa'
import { buildPeer, socketFolder } from '#test/peer-go/go.ts'

interface Sample {
  readonly callsPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
}

interface Case {
  readonly client: 'node' | 'go'
  readonly server: 'node' | 'go'
  readonly flight: number
  readonly samples: Sample[]
}

/** Enough for about a second each. */
const callsOf: Readonly<Record<number, number>> = { 1: 10_000, 64: 100_000 }

const rounds = Number(process.argv[2] ?? 7)
const peer = buildPeer()
if ('lack' in peer) throw new Error(`this machine lacks ${peer.lack}, which the comparison needs`)
const script = (name: string): string[] => [path.join(import.meta.dirname, name)]
const commands = {
  node: {
    serve: [process.execPath, ...script('ttrpc-server.ts')],
    bench: [process.execPath, ...script('ttrpc-client.ts')],
  },
  go: { serve: [peer.path, 'serve'], bench: [peer.path, 'bench'] },
} as const

const sides = ['node', 'go'] as const
const cases: Case[] = [1, 64].flatMap((flight) =>
  sides.flatMap((client) => sides.map((server) => ({ client, server, flight, samples: [] }))))

using sockets = socketFolder()
for (let round = 0; round < rounds; round++) {
  for (const one of cases) one.samples.push(await measure(one, sockets.path(`${round}-${cases.indexOf(one)}`)))
  process.stderr.write(`round ${round + 1} of ${rounds}\n`)
}
mkdirSync('build/bench', { recursive: true })
const machine = { node: process.version, cpus: os.cpus().length, model: os.cpus()[0]?.model }
writeFileSync('build/bench/ttrpc.json', JSON.stringify({ machine, callsOf, cases }, undefined, 1))
report()

async function measure({ client, server, flight }: Case, socket: string): Promise<Sample> {
  const [serve, ...serveArgs] = commands[server].serve
  const serving = execa(serve, [...serveArgs, socket], { stdin: 'pipe', stderr: 'inherit' })
  await Promise.race([once(serving.stdout, 'data'), serving])
  const [call, ...callArgs] = commands[client].bench
  const args = [...callArgs, socket, String(flight), String(callsOf[flight])]
  const { stdout } = await execa(call, args, { stderr: 'inherit' })
  serving.stdin.end()
  await serving
  const sample: Sample = JSON.parse(stdout)
  return sample
}

function report(): void {
  for (const flight of [1, 64]) {
    console.log(`\n${flight} in flight${' '.repeat(16)}calls/s   p50 µs   p99 µs   of Go's calls/s`)
    const floor = cases.find((one) => one.flight === flight && one.client === 'go' && one.server === 'go')
    for (const one of cases.filter((each) => each.flight === flight)) {
      const rate = middle(one.samples.map((sample) => sample.callsPerSecond))
      const ratio = rate / middle((floor?.samples ?? []).map((sample) => sample.callsPerSecond))
      const p50 = middle(one.samples.map((sample) => sample.p50Us))
      const p99 = middle(one.samples.map((sample) => sample.p99Us))
      const numbers = [rate.toFixed(0), p50.toFixed(0), p99.toFixed(0), ratio.toFixed(2)]
      const columns = numbers.map((text) => text.padStart(9))
      console.log(`${one.client} client, ${one.server} server`.padEnd(25), columns.join(''))
    }
  }
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}
