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
import { claims, wordOf } from './scorecard.ts'

/** A machine that many share misses a time of critest's now and then; what is broken fails again, or fails oftener. */
const SECOND_TRIES_MAX = 4

const lack = lackOfGo(import.meta.dirname)

await t.test(microvm, { skip: lack === undefined ? false : `lacks: ${lack}` }, async (t) => {
  await execa('make', ['conformance-programs'], { cwd: checkout })
  const critest = await buildCritest(digestOfDigestImage(), (line) => t.comment(line))
  const specs = await listSpecs(critest)
  const claimed = claims(await readFile(join(checkout, 'docs/conformance.md'), 'utf8'), microvm)
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
