/**
 * `make bench`: every benchmark, or the named ones. All samples are kept in build/bench/results-<date>.json; what is
 * printed are their medians, beside the targets. A missed target is a fact, not a failure.
 *
 *   node bench/main.ts [NAME…]          KUASAR_BENCH_ROUNDS=N takes N samples of everything
 */
import { execa } from 'execa'
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { explain } from '#shared/errors.ts'
import { checkout } from '#test/node/paths.ts'
import type { Benchmark, Outcome } from './benchmark.ts'
import { benchmarks } from './benchmarks.ts'
import { table } from './report.ts'

const ROUNDS_MAX = 1000

interface Result extends Outcome {
  readonly name: string
  readonly startedAt: string
  readonly endedAt: string
  /** What else ran on the machine: the load of the minute before the start and before the end. */
  readonly load: readonly [before: number | undefined, after: number | undefined]
}

const chosen = choose(process.argv.slice(2))
const rounds = roundsFrom(process.env['KUASAR_BENCH_ROUNDS'])
const startedAt = new Date()
const file = join(checkout, `build/bench/results-${startedAt.toISOString().slice(0, 19).replaceAll(':', '')}Z.json`)
const results: Result[] = []

for (const benchmark of chosen) {
  console.error(`${benchmark.name}: ${benchmark.title}`)
  try {
    const result = await measure(benchmark)
    results.push(result)
    console.log(`\n${table(benchmark.name, result)}\n`)
  } catch (error) {
    console.error(`${benchmark.name}: failed: ${explain(error)}`)
    if (process.env['KUASAR_DEBUG'] !== undefined) console.error(error)
    process.exitCode = 1
  }
  // After each: a benchmark that fails later loses nothing.
  await save()
}
console.log(`all samples: ${file}`)

async function measure(benchmark: Benchmark): Promise<Result> {
  const before = { startedAt: new Date().toISOString(), load: loadavg()[0] }
  const progress = (what: string) => console.error(`  ${benchmark.name}: ${what}`)
  const outcome = await benchmark.run(rounds ?? benchmark.rounds, progress)
  const { startedAt: began, load } = before
  return { name: benchmark.name, startedAt: began, endedAt: new Date().toISOString(), load: [load, loadavg()[0]], ...outcome }
}

async function save(): Promise<void> {
  const machine = {
    cpus: cpus().length,
    cpu: cpus()[0]?.model,
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
  }
  const commit = (await execa('git', ['describe', '--always', '--dirty'], { cwd: checkout, reject: false })).stdout
  await mkdir(join(checkout, 'build/bench'), { recursive: true })
  await writeFile(file, `${JSON.stringify({ startedAt, commit, machine, results }, undefined, 1)}\n`)
}

function choose(names: readonly string[]): readonly Benchmark[] {
  for (const name of names) {
    if (benchmarks.some((benchmark) => benchmark.name === name)) continue
    console.error(`there is no benchmark ${name}; there are ${benchmarks.map((benchmark) => benchmark.name).join(', ')}`)
    process.exit(2)
  }
  return names.length === 0 ? benchmarks : benchmarks.filter((benchmark) => names.includes(benchmark.name))
}

function roundsFrom(text = ''): number | undefined {
  const value = text === '' ? undefined : Number(text)
  if (value === undefined || (Number.isInteger(value) && value >= 1 && value <= ROUNDS_MAX)) return value
  console.error(`KUASAR_BENCH_ROUNDS=${text}: expected a whole number from 1 to ${ROUNDS_MAX}`)
  return process.exit(2)
}
