/**
 * critest against microVMs, a test for each spec that applies to them: what `make conformance` runs without runc beside it.
 * And what docs/conformance.md says of them is so.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { checkout } from '#test/node/paths.ts'
import { microvm } from '#test/support/kuasar.ts'
import { lackOfGo } from '../../tools/go.ts'
import { buildCritest, listSpecs } from './critest.ts'
import { LANES, runHandler } from './handler.ts'
import { digestOfDigestImage } from './images.ts'
import { claims, NOT_RUN, runsClaimed, wordOf } from './scorecard.ts'

/** A machine that many share misses a time of critest's now and then; what is broken fails again, or fails oftener. */
const SECOND_TRIES_MAX = 4

/** Of microVMs, in a row, behind the words of docs/conformance.md. */
const WHOLE_RUNS_MIN = 10

const lack = lackOfGo(import.meta.dirname)

await t.test(microvm, { skip: lack === undefined ? false : `lacks: ${lack}` }, async (t) => {
  await execa('make', ['conformance-programs'], { cwd: checkout })
  const critest = await buildCritest(digestOfDigestImage(), (line) => t.comment(line))
  const specs = await listSpecs(critest)
  const card = await readFile(join(checkout, 'docs/conformance.md'), 'utf8')
  const runs = runsClaimed(card, microvm)
  t.ok(runs >= WHOLE_RUNS_MIN, `docs/conformance.md is of ${runs} whole runs in a row, and at least ${WHOLE_RUNS_MIN} are wanted: make conformance RUNS=${WHOLE_RUNS_MIN}`)
  const beside = claims(card, 'runc')
  t.same(specs.map(({ group, name }) => `${group}: ${name}`).filter((spec) => (beside.get(spec) ?? NOT_RUN) === NOT_RUN), [], 'runc was asked every spec')
  const claimed = claims(card, microvm)
  await runHandler(critest, {
    handler: microvm,
    specs,
    lanes: LANES,
    secondTriesMax: SECOND_TRIES_MAX,
    record({ group, name }, outcome) {
      const spec = `${group}: ${name}`
      if (outcome.firstTry !== undefined) t.comment(`${spec}: was run once more, alone; the first time: ${outcome.firstTry}`)
      if (outcome.known && outcome.kind !== 'pass') t.comment(`${wordOf(outcome)}: ${spec}: ${outcome.reason}`)
      else t.ok(outcome.known, spec, { found: outcome.reason })
      if (claimed.get(spec) !== wordOf(outcome)) t.fail(`docs/conformance.md says "${claimed.get(spec) ?? 'nothing'}" of ${spec}; it is "${wordOf(outcome)}"`)
    },
  })
})
