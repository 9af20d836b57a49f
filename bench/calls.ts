/** ttrpc calls per second, ours against Go's: see ttrpc.ts, which also runs alone. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { z } from 'zod'
import { checkout } from '#test/node/paths.ts'
import type { Benchmark, Figure, Series } from './benchmark.ts'
import { medianOf } from './sampling.ts'
import { preferred } from './weight.ts'

const samples = z.array(z.object({ callsPerSecond: z.number(), p50Us: z.number(), p99Us: z.number() }))
const side = z.enum(['node', 'go'])
const outcome = z.object({ cases: z.array(z.object({ client: side, server: side, flight: z.number(), samples })) })

/** Calls in flight → the least of Go's calls per second. */
const targets = new Map([[1, 0.75], [64, 1.3]])

export const calls: Benchmark = {
  name: 'ttrpc',
  title: 'ttrpc calls per second over a unix socket, ours and Go\'s',
  rounds: 5,
  async run(rounds, progress) {
    progress(`${rounds} rounds of about ten seconds`)
    await preferred()
    await execa(process.execPath, [join(import.meta.dirname, 'ttrpc.ts'), `${rounds}`], { cwd: checkout, stdout: 'ignore', stderr: 'inherit' })
    const { cases } = outcome.parse(JSON.parse(await readFile(join(checkout, 'build/bench/ttrpc.json'), 'utf8')))
    const series = cases.flatMap((one): Series[] => {
      const name = nameOf(one.client, one.server, one.flight)
      return [
        { name, unit: 'calls/s', samples: one.samples.map(({ callsPerSecond }) => callsPerSecond) },
        { name: `${name}: p99`, unit: 'µs', samples: one.samples.map(({ p99Us }) => p99Us) },
      ]
    })
    const figures = [...targets].map(([flight, atLeast]): Figure => {
      const value = medianOf(series, nameOf('node', 'node', flight)) / medianOf(series, nameOf('go', 'go', flight))
      return { name: `ours to Go's, ${flight} in flight`, value, unit: '×', target: { atLeast } }
    })
    return { series, figures }
  },
}

const nameOf = (client: string, server: string, flight: number) => `${client} client, ${server} server, ${flight} in flight`
