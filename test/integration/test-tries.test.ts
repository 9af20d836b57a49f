/** The test runner itself: which files are tried a second time, what is said of both tries, and what the run comes to. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { checkout, tapProject } from '#test/support/tap-project.ts'

/** Writes down that it ran, and fails in as many of its runs as are asked for. */
const failing = (runs: number) => `
import { appendFileSync, readFileSync } from 'node:fs'
appendFileSync(import.meta.filename + '.runs', '.')
t.pass('it ran')
t.ok(readFileSync(import.meta.filename + '.runs').length > ${runs}, 'a try that holds')`
const passes = failing(0)
const failsOnce = failing(1)
const failsTwice = failing(2)

/** Runs the real runner on groups of these files. */
async function run(t: Test, files: Readonly<Record<string, string>>, ...groups: readonly string[]) {
  const project = await tapProject()
  t.teardown(() => project[Symbol.asyncDispose]())
  const names = await project.write(files)
  const { stdout, stderr, exitCode } = await project.node(join(checkout, 'tools/test.ts'), ...groups)
  const runs = await Promise.all(names.map(async (name) => (await readFile(join(project.dir, `${name}.runs`), 'utf8')).length))
  const shown = stdout.split('\n')
  return {
    exitCode,
    stderr,
    /** How often each file ran, in their order. */
    runs,
    last: shown.at(-1),
    /** The lines that are said of files at the end. */
    said: shown.filter((line) => /^(AT FIRST )?FAILED /.test(line)),
    second: shown.filter((line) => line.includes('second try')),
    tap: (name: string) => readFile(join(project.dir, 'build/test', name), 'utf8'),
  }
}

t.test('a file that fails once and then passes: the run is green, and says what failed at first', async (t) => {
  const { tap, ...green } = await run(t, { 'test/integration/a-once': failsOnce, 'test/integration/b-well': passes }, 'integration')
  t.strictSame(green, {
    exitCode: 0,
    stderr: '',
    runs: [2, 1],
    last: '4 passed, 0 failed',
    said: ['AT FIRST FAILED test/integration/a-once.test.ts: a try that holds'],
    second: ['== integration: a second try for 1 files'],
  })
  t.match(await tap('integration.tap'), /not ok 2 - a try that holds/, 'the TAP of the first try is kept')
  const second = await tap('integration-second.tap')
  t.match(second, /^ok 1 - test\/integration\/a-once\.test\.ts/m, 'and that of the second')
  t.notMatch(second, /b-well/)
})

t.test('one that fails twice: the run fails, and says what failed each time', async (t) => {
  const { tap: _, ...red } = await run(t, { 'test/integration/a-once': failsOnce, 'test/integration/b-twice': failsTwice }, 'integration')
  t.strictSame(red, {
    exitCode: 1,
    stderr: '',
    runs: [2, 2],
    last: '3 passed, 1 failed',
    said: [
      'AT FIRST FAILED test/integration/a-once.test.ts: a try that holds',
      'AT FIRST FAILED test/integration/b-twice.test.ts: a try that holds',
      'FAILED test/integration/b-twice.test.ts: a try that holds',
    ],
    second: ['== integration: a second try for 2 files'],
  })
})

t.test('when more fail than may, none is tried again', async (t) => {
  const names = ['a', 'b', 'c']
  const { tap: _, ...red } = await run(t, Object.fromEntries(names.map((name) => [`test/integration/${name}`, failsOnce])), 'integration')
  t.strictSame(red, {
    exitCode: 1,
    stderr: '',
    runs: [1, 1, 1],
    last: '3 passed, 3 failed',
    said: names.map((name) => `FAILED test/integration/${name}.test.ts: a try that holds`),
    second: [],
  })
})

t.test('a unit test has one try', async (t) => {
  const { tap: _, ...red } = await run(t, { 'test/unit/a-once': failsOnce }, 'unit')
  t.strictSame(red, { exitCode: 1, stderr: '', runs: [1], last: '1 passed, 1 failed', said: ['FAILED test/unit/a-once.test.ts: a try that holds'], second: [] })
})

t.test('a group without a file fails; one that is not there, and none at all, are wrong questions', async (t) => {
  t.match(await run(t, {}, 'unit'), { exitCode: 1, last: '0 passed, 1 failed', said: [/^FAILED unit: no test file matches /] })
  t.match(await run(t, {}, 'units'), { exitCode: 2, stderr: /unknown group "units"; there are unit, integration, / })
  t.match(await run(t, {}), { exitCode: 2, stderr: /name at least one group: unit, / })
})
