/** What became of every spec under one runtime handler, kept in build/node-conformance/HANDLER.json as it comes in. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { checkout } from '#test/node/paths.ts'
import type { Spec, SpecReport } from './suite.ts'

export const resultsDir = join(checkout, 'build/node-conformance')

const outcome = z.object({
  /** `skip` is the suite's own doing. */
  kind: z.enum(['pass', 'fail', 'skip']),
  /** In the suite's words; empty for a pass. */
  message: z.string(),
  /** How long the suite took for it. */
  seconds: z.number(),
})

export type Outcome = z.infer<typeof outcome>

const saved = z.object({
  handler: z.string(),
  /** Name → version of what ran. */
  versions: z.record(z.string(), z.string()),
  /** By the spec's text; a spec that has not run is not there. */
  outcomes: z.record(z.string(), outcome),
})

export type Results = z.infer<typeof saved>

const fileOf = (handler: string): string => join(resultsDir, `${handler}.json`)

export async function loadResults(handler: string): Promise<Results> {
  const text = await readFile(fileOf(handler), 'utf8').catch(() => undefined)
  return text === undefined ? { handler, versions: {}, outcomes: {} } : saved.parse(JSON.parse(text))
}

export async function saveResults(results: Results): Promise<void> {
  await mkdir(resultsDir, { recursive: true })
  await writeFile(fileOf(results.handler), `${JSON.stringify(results, null, 2)}\n`)
}

/** Of a spec that the suite was to run. Without a report it did not get to it, which is a failure. */
export function outcomeOf(spec: Spec, reports: readonly SpecReport[]): Outcome {
  const { seconds = 0, message = '', state = '' } = reports.find(({ text }) => text === spec.text) ?? {}
  if (state === 'passed') return { kind: 'pass', message: '', seconds }
  if (state === 'skipped' && message !== '') return { kind: 'skip', message, seconds }
  return { kind: 'fail', message: message || 'the suite ended before it ran this', seconds }
}
