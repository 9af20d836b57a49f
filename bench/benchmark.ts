/** What a benchmark is: samples, and figures made of them. A figure may have a target; missing it is not a failure. */

export interface Benchmark {
  /** As `make bench BENCH=<name>` takes it. */
  readonly name: string
  readonly title: string
  /** Samples of each series when KUASAR_BENCH_ROUNDS does not say. Small: an emulated pod start takes seconds. */
  readonly rounds: number
  run(rounds: number, progress: Progress): Promise<Outcome>
}

/** Tells the person who waits what is going on. */
export type Progress = (what: string) => void

export interface Outcome {
  readonly series: readonly Series[]
  readonly figures: readonly Figure[]
  /** What a reader must know to read the figures right. */
  readonly notes?: readonly string[]
}

/** Samples of one thing, in the order they were taken. */
export interface Series {
  readonly name: string
  readonly unit: Unit
  readonly samples: readonly number[]
}

export type Unit = 'ms' | 'KiB' | 'µs' | 'calls/s' | 'MiB/s'

/** One number made of series: a ratio, a difference, a slope. */
export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: '×' | Unit
  readonly target?: Target
}

export type Target = { readonly atMost: number } | { readonly atLeast: number }

export function isMet({ value, target }: Figure): boolean {
  if (target === undefined) return true
  return 'atMost' in target ? value <= target.atMost : value >= target.atLeast
}
