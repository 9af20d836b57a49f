/** All specs against one runtime handler. */
import type { Critest, Spec } from './critest.ts'
import { outcomeOf, sandboxOutcome, type Outcome } from './results.ts'
import { startRun, type Run } from './run.ts'
import { whyNot } from './scope.ts'

/** Specs that run at a time: an emulated machine keeps one core busy, and a spec waits much. */
export const LANES = 2

/** Specs that one run of critest is given: few, so that what is known is saved soon and lanes end together. */
const BATCH_SPECS_MAX = 6

export interface SpecsOptions {
  readonly handler: string
  readonly specs: readonly Spec[]
  readonly lanes: number
  /** Called for every spec, as soon as it is known what became of it, in no order. */
  readonly record: (spec: Spec, outcome: Outcome) => void
  /**
   * Failures that nobody has explained, up to this many, are run once more, alone, and only then recorded. critest gives
   * up after times of its own, which a machine shared with others may miss. Default 0.
   */
  readonly secondTriesMax?: number
}

/** Starts what it takes, and answers the versions of it. */
export async function runHandler(critest: Critest, options: SpecsOptions): Promise<Run['versions']> {
  await using run = await startRun(critest, options.handler)
  await runAll(run, options)
  return run.versions
}

export async function runAll(run: Pick<Run, 'specs'>, { handler, specs, lanes, record, secondTriesMax = 0 }: SpecsOptions): Promise<void> {
  const failed: { readonly spec: Spec; readonly outcome: Outcome }[] = []
  const runBatch = async (batch: readonly Spec[], keep: typeof record) => {
    const reports = await run.specs(batch)
    for (const spec of batch) {
      const outcome = outcomeOf(spec, reports)
      keep(spec, handler === 'runc' ? outcome : sandboxOutcome(spec, outcome))
    }
  }
  const first = (spec: Spec, outcome: Outcome) => {
    if (outcome.known || failed.length >= secondTriesMax) record(spec, outcome)
    else failed.push({ spec, outcome })
  }
  const applying = specs.filter((spec) => {
    const reason = handler === 'runc' ? undefined : whyNot(spec)
    if (reason !== undefined) record(spec, { kind: 'not-applicable', reason, known: true, seconds: 0 })
    return reason === undefined
  })
  await inLanes(1, batches(applying.filter(({ serial }) => serial)), (batch) => runBatch(batch, first))
  await inLanes(lanes, batches(applying.filter(({ serial }) => !serial)), (batch) => runBatch(batch, first))
  for (const { spec, outcome } of failed)
    await runBatch([spec], (_, second) => record(spec, { ...second, firstTry: outcome.reason }))
}

function batches(specs: readonly Spec[]): Spec[][] {
  return Array.from({ length: Math.ceil(specs.length / BATCH_SPECS_MAX) }, (_, index) =>
    specs.slice(index * BATCH_SPECS_MAX, (index + 1) * BATCH_SPECS_MAX),
  )
}

async function inLanes<T>(lanes: number, items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items]
  const lane = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item)
  }
  await Promise.all(Array.from({ length: lanes }, lane))
}
