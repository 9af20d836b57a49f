/** What became of every spec under one runtime handler, kept in build/conformance/HANDLER.json as it comes in. */
import { writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { conformanceDir, type Spec, type SpecReport } from './critest.ts'
import { whyFailed, whyMustFail, whySkipped } from './scope.ts'

const outcome = z.object({
  /** `skip` is critest's own doing. */
  kind: z.enum(['pass', 'fail', 'skip', 'not-applicable']),
  /** Why not; empty for a pass. */
  reason: z.string(),
  /** Known and explained in scope.ts; a failure or a skip that is not makes the run fail */
  known: z.boolean().default(false),
  /** How long critest took for it, its pod's start and removal included */
  seconds: z.number().default(0),
  /** Why it failed the first time, where it was run twice */
  firstTry: z.string().optional(),
})

export type Outcome = z.infer<typeof outcome>

const saved = z.object({
  handler: z.string(),
  /** Whole runs in a row that the outcomes are of, each of critest's words the same in all of them or the worst of them. */
  runs: z.number().int().default(0),
  /** Name → version of what ran. */
  versions: z.record(z.string(), z.string()),
  /** By the spec's text. */
  outcomes: z.record(z.string(), outcome),
})

export type Results = z.infer<typeof saved>

const fileOf = (handler: string): string => join(conformanceDir, `${handler}.json`)

export async function loadResults(handler: string): Promise<Results | undefined> {
  const text = await readFile(fileOf(handler), 'utf8').catch(() => undefined)
  return text === undefined ? undefined : saved.parse(JSON.parse(text))
}

/** Of the same spec in the runs before and in one more: what nobody has explained stays. */
export const worst = (before: Outcome | undefined, now: Outcome): Outcome => (before?.known === false ? before : now)

/** At once, so that two lanes do not write over each other. */
export function saveResults(results: Results): void {
  writeFileSync(fileOf(results.handler), `${JSON.stringify(results, null, 2)}\n`)
}

/** Of one spec that critest was to run. Without a report it did not get to it, which is a failure. */
export function outcomeOf(spec: Spec, reports: readonly SpecReport[]): Outcome {
  const report = reports.find((candidate) => candidate.spec.text === spec.text)
  const { seconds = 0, message = '' } = report ?? {}
  const unknown = (kind: 'fail' | 'skip', reason: string) => ({ kind, reason, known: false, seconds })
  switch (report?.state) {
    case 'passed':
      return { kind: 'pass', reason: '', known: true, seconds }
    case 'skipped': {
      if (message === '') return unknown('fail', 'critest ended before it ran this')
      const why = whySkipped(message)
      return why === undefined ? unknown('skip', message) : { kind: 'skip', reason: `${message}: ${why}`, known: true, seconds }
    }
    case undefined:
      return unknown('fail', 'critest ended before it ran this')
    default:
      return unknown('fail', message === '' ? (report?.state ?? '') : message)
  }
}

/** The same of a spec that ran in a sandbox: what it must fail at is known, and that it fails. */
export function sandboxOutcome(spec: Spec, outcome: Outcome): Outcome {
  const must = whyMustFail(spec)
  if (outcome.kind === 'pass' && must !== undefined)
    return { ...outcome, kind: 'fail', reason: `it passes, though test/conformance/scope.ts says: ${must}`, known: false }
  const why = outcome.kind === 'fail' ? whyFailed(spec, outcome.reason) : undefined
  return why === undefined ? outcome : { ...outcome, reason: why, known: true }
}
