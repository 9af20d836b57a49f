/**
 * `make conformance`: critest against runc and against every backend that runs containers, and the scorecard of it.
 *
 *   node test/conformance/main.ts [--handler NAME]… [--focus PATTERN] [--lanes N] [--runs N]
 *
 * N specs run at a time, 2 by default: much of a spec's time is waiting.
 * Sandboxes have N runs, 1 by default, each with a node of its own; what fails in one of them is what the scorecard says.
 * With --focus only matching specs run, results are added to those of earlier runs, and no scorecard is written.
 * Fails when a spec that applies to us does not pass and scope.ts does not say why, or is skipped for a reason nobody has
 * looked into.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { explain } from '#shared/errors.ts'
import { checkout } from '#test/node/paths.ts'
import { buildCritest, listSpecs, type Spec } from './critest.ts'
import { LANES, runHandler } from './handler.ts'
import { digestOfDigestImage } from './images.ts'
import { loadResults, saveResults, worst, type Outcome, type Results } from './results.ts'
import { handlers, scorecard } from './scorecard.ts'

const { values } = parseArgs({
  options: {
    handler: { type: 'string', multiple: true, default: [...handlers] },
    focus: { type: 'string' },
    lanes: { type: 'string', default: String(LANES) },
    runs: { type: 'string', default: '1' },
  },
})

try {
  process.exitCode = await conformance(values.handler, values.focus, count('lanes'), count('runs'))
} catch (error) {
  console.error(`conformance: ${explain(error)}`)
  process.exitCode = 1
}

function count(option: 'lanes' | 'runs'): number {
  const number = Number(values[option])
  if (!Number.isInteger(number) || number < 1) throw new Error(`--${option} is "${values[option]}"; expected a whole number from 1 on`)
  return number
}

async function conformance(wanted: readonly string[], focus: string | undefined, lanes: number, runs: number): Promise<number> {
  const critest = await buildCritest(digestOfDigestImage(), say)
  const specs = await listSpecs(critest)
  const chosen = focus === undefined ? specs : specs.filter(({ text }) => new RegExp(focus).test(text))
  if (chosen.length === 0) throw new Error(`--focus ${focus}: no spec of critest has such a text`)
  for (const handler of wanted) {
    const earlier = focus === undefined ? undefined : await loadResults(handler)
    const results: Results = { handler, runs: 0, versions: {}, outcomes: { ...earlier?.outcomes } }
    const wantedRuns = handler === 'runc' ? 1 : runs
    for (let run = 1; run <= wantedRuns; run++) {
      say(`conformance: ${handler}, run ${run} of ${wantedRuns}`)
      const record = (spec: Spec, outcome: Outcome) => {
        results.outcomes[spec.text] = run === 1 ? outcome : worst(results.outcomes[spec.text], outcome)
        print(spec, outcome)
        saveResults(results)
      }
      results.versions = await runHandler(critest, { handler, specs: chosen, lanes, record })
      if (focus === undefined) results.runs = run
      saveResults(results)
    }
  }
  const all = (await Promise.all(handlers.map(loadResults))).filter((results) => results !== undefined)
  const text = scorecard(critest.version, specs, all)
  const path = join(checkout, focus === undefined ? 'docs/conformance.md' : 'build/conformance/scorecard.md')
  await writeFile(path, text)
  say(`conformance: ${path}`)
  const failed = all
    .filter(({ handler }) => handler !== 'runc' && wanted.includes(handler))
    .flatMap(({ outcomes }) => chosen.filter(({ text }) => outcomes[text]?.known !== true))
  return failed.length === 0 ? 0 : 1
}

function print({ group, name }: Spec, outcome: Outcome): void {
  say(`  ${outcome.kind.padEnd(14)} ${outcome.seconds.toFixed(1).padStart(5)} s  ${group}: ${name}`)
  if (!outcome.known) say(outcome.reason.split('\n').map((line) => `      ${line}`).join('\n'))
}

function say(line: string): void {
  console.error(line)
}
