/** Taking samples so that what disturbs the machine disturbs all alike. */
import type { Progress, Series, Unit } from './benchmark.ts'

export interface Case {
  readonly name: string
  readonly sample: () => Promise<number>
}

/**
 * A sample of each case, again and again: A B C A B C. Each is taken once before, unrecorded, to warm up. Answers one
 * series per case, in their order.
 */
export async function interleave(rounds: number, unit: Unit, cases: readonly Case[], progress: Progress): Promise<Series[]> {
  const samples = cases.map((): number[] => [])
  for (let round = 0; round <= rounds; round++) {
    for (const [index, { name, sample }] of cases.entries()) {
      const value = await sample()
      if (round > 0) samples[index]?.push(value)
      progress(`${round === 0 ? 'warm-up' : `round ${round} of ${rounds}`}: ${name} ${value.toFixed(1)} ${unit}`)
    }
  }
  return cases.map(({ name }, index) => ({ name, unit, samples: samples[index] ?? [] }))
}

/** Milliseconds that `task` takes. */
export async function timeMs(task: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now()
  await task()
  return performance.now() - startMs
}

/** The middle one; of an even number, the mean of the two middle ones. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]]
  return low === undefined || high === undefined ? Number.NaN : (low + high) / 2
}

/** The median of the series of that name. NaN when there is none. */
export function medianOf(all: readonly Series[], name: string): number {
  return median(all.find((series) => series.name === name)?.samples ?? [])
}
