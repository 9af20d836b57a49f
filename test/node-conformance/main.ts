/**
 * `make node-conformance`: Kubernetes' node conformance suite against runc and against microVMs, and docs/node-conformance.md of it.
 *
 *   node test/node-conformance/main.ts [--handler NAME]… [--focus PATTERN] [--rest] [--card]
 *
 * Results are added to those of earlier runs, in build/node-conformance: a whole run takes hours. With --rest, only specs run that have
 * none; with --card, none at all. The scorecard is of all results there are; with --focus it is written beside them instead.
 * Fails when a spec that applies to a sandbox does not pass and scope.ts does not say why.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { explain } from '#shared/errors.ts'
import { checkout } from '#test/node/paths.ts'
import { microvm } from '#test/support/kuasar.ts'
import { loadResults, outcomeOf, resultsDir, saveResults } from './results.ts'
import { startRun } from './run.ts'
import { whyElse, whyNot } from './scope.ts'
import { scorecard } from './scorecard.ts'
import { listSpecs, release, type Spec } from './suite.ts'

/** What is scored, runc first. */
const handlers = ['runc', microvm]

/** Lines printed of a failure. */
const MESSAGE_LINES_MAX = 12

const { values } = parseArgs({
  options: {
    handler: { type: 'string', multiple: true, default: handlers },
    focus: { type: 'string', default: '' },
    rest: { type: 'boolean', default: false },
    card: { type: 'boolean', default: false },
  },
})

try {
  process.exitCode = await nodeConformance()
} catch (error) {
  console.error(`node-conformance: ${explain(error)}`)
  process.exitCode = 1
}

async function nodeConformance(): Promise<number> {
  const { handler: wanted, focus, rest, card } = values
  const specs = await listSpecs()
  const chosen = specs.filter(({ text }) => new RegExp(focus).test(text))
  if (chosen.length === 0) throw new Error(`--focus ${focus}: no spec of the suite has such a text`)
  if (!card) for (const handler of wanted) await runAll(handler, chosen, rest)
  const all = await Promise.all(handlers.map(loadResults))
  const path = focus === '' ? join(checkout, 'docs/node-conformance.md') : join(resultsDir, 'scorecard.md')
  await writeFile(path, scorecard(await release(), specs, all))
  say(`node-conformance: ${path}`)
  const unexplained = all
    .filter(({ handler }) => handler !== 'runc' && wanted.includes(handler))
    .flatMap(({ handler, outcomes }) =>
      chosen.filter((spec) => {
        const { kind, message } = outcomes[spec.text] ?? {}
        return kind !== 'pass' && whyNot(spec) === undefined && whyElse(spec, handler, message ?? '') === undefined
      }))
  return unexplained.length === 0 ? 0 : 1
}

async function runAll(handler: string, chosen: readonly Spec[], rest: boolean): Promise<void> {
  const results = await loadResults(handler)
  const specs = chosen.filter((spec) => (handler === 'runc' || whyNot(spec) === undefined) && !(rest && Object.hasOwn(results.outcomes, spec.text)))
  say(`node-conformance: ${handler}: ${specs.length} specs`)
  if (specs.length === 0) return
  await using run = await startRun(handler)
  const { versions } = run
  for (const spec of specs) {
    const outcome = outcomeOf(spec, await run.specs([spec]))
    results.outcomes[spec.text] = outcome
    await saveResults({ ...results, versions })
    say(`  ${outcome.kind.padEnd(5)} ${outcome.seconds.toFixed(1).padStart(5)} s  ${spec.group}: ${spec.name}`)
    if (outcome.kind !== 'pass') say(outcome.message.split('\n').slice(0, MESSAGE_LINES_MAX).map((line) => `      ${line}`).join('\n'))
  }
}

function say(line: string): void {
  console.error(line)
}
