/** What a run of tests says of its files: nothing that did not run may pass for what held. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { checkout, tapProject } from '#test/support/tap-project.ts'
import type { FileResult } from '../../tools/test-files.ts'

const project = await tapProject()
t.teardown(() => project[Symbol.asyncDispose]())

type Result = Pick<FileResult, 'file' | 'passed' | 'complaints'>

interface Run {
  /** By name. */
  readonly results: readonly Result[]
  /** What the reader saw meanwhile. */
  readonly shown: string
  /** What stands below the complaints, by file. */
  readonly diagnostics: Readonly<Record<string, string>>
}

/** Runs a directory of files, named after what is in them, by runFiles in a process without this tap's hooks. */
async function run(directory: string, bodies: Readonly<Record<string, string>>, timeoutSeconds = 120): Promise<Run> {
  const files = await project.write(Object.fromEntries(Object.entries(bodies).map(([name, body]) => [`${directory}/${name}`, body])))
  const asked = { group: 'group', files, jobs: 2, timeoutSeconds, keepAt: `${directory}.tap` }
  const script = `
    import { runFiles } from '${checkout}/tools/test-files.ts'
    console.log(JSON.stringify(await runFiles(${JSON.stringify(asked)})))`
  const { stdout } = await project.node('--input-type=module', '--eval', script)
  const end = stdout.lastIndexOf('\n')
  const parsed: FileResult[] = JSON.parse(stdout.slice(end + 1))
  const short = (text: string) => text.replaceAll(`${directory}/`, '').replaceAll('.test.ts', '')
  const results = parsed.map(({ file, passed, complaints }): Result => ({ file: short(file), passed, complaints: complaints.map((all) => short(all.split('\n', 1)[0] ?? '')) }))
  const diagnostics = Object.fromEntries(
    parsed.map(({ file, complaints }) => [short(file), short(complaints.flatMap((all) => all.split('\n').slice(1)).join('\n'))]),
  )
  return { results: results.toSorted((a, b) => (a.file < b.file ? -1 : 1)), shown: short(stdout.slice(0, end)), diagnostics }
}

t.test('what held is counted, what did not is a failure each, and so is what did not run', async (t) => {
  const { results, shown } = await run('all', {
    broken: 't.test(',
    crash: "t.pass('one'); t.test('inner', async (t) => { process.kill(process.pid, 'SIGKILL'); await new Promise(() => {}) })",
    exits: "t.test('inner', async (t) => { t.pass('one'); process.exit(0) }); t.test('never', async (t) => { t.fail('ran') })",
    fails: "t.test('inner', async (t) => { t.pass('one'); t.equal(1, 2, 'numbers') }); t.test('thrower', async () => { throw new Error('thrown') })",
    holds: "t.pass('one'); t.test('inner', async (t) => { t.pass('two'); await t.test('deeper', async (t) => { t.pass('three') }) })",
    hollow: "t.test('inner', async () => {})",
    none: '',
    'skip-bare': "t.pass('one'); t.test('inner', { skip: true }, () => {}); t.ok(true, 'assertion', { skip: 'later' })",
    'skip-lacks': "t.test('inner', { skip: 'lacks: a moon' }, () => {})",
    'skip-name': "t.test('lacks: a moon', { skip: 'lacks:' }, () => {}); t.pass('# SKIP'); t.pass('# TODO')",
    'skip-whole': "t.plan(0, 'not today')",
    todo: "t.todo('one'); t.test('no body'); t.test('inner', async (t) => { t.pass('two', { todo: true }); t.fail('three', { todo: 'soon' }) })",
  })
  const unnamed = 'skipped without naming what the machine lacks:'
  const todos = ['- one # TODO', '- no body # TODO', '- two # TODO', '- three # TODO soon'].map((text) => `yet to be done: ${text}`)
  const expected: [file: string, passed: number, ...complaints: string[]][] = [
    ['broken', 0, 'it ended badly; its TAP says how'],
    ['crash', 1, 'it ended badly; its TAP says how'],
    ['exits', 1, 'test unfinished'],
    ['fails', 1, 'numbers', 'thrown'],
    ['holds', 3],
    ['hollow', 0, 'it asserts nothing'],
    ['none', 0, `${unnamed} - none # SKIP no tests found`],
    ['skip-bare', 1, `${unnamed} - inner # SKIP`, `${unnamed} - assertion # SKIP later`],
    ['skip-lacks', 0],
    ['skip-name', 2, `${unnamed} - lacks: a moon # SKIP lacks:`],
    ['skip-whole', 0, `${unnamed} - skip-whole # SKIP not today`],
    ['todo', 0, ...todos],
  ]
  for (const [index, [file, passed, ...complaints]] of expected.entries()) {
    t.same(results[index], { file, passed, complaints: complaints.map((text) => `FAILED ${file}: ${text}`) }, file)
  }
  t.equal(results.length, expected.length)
  t.match(shown, /^ {2}ok {5}- holds /m)
  t.match(shown, /^ {2}FAILED - fails /m)
  t.match(shown, /^ {2}skipped - inner # SKIP lacks: a moon$/m)
  t.match(await readFile(join(project.dir, 'all.tap'), 'utf8'), /^ +not ok 2 - numbers$/m, 'the whole TAP is kept')
})

t.test('a failed assertion is shown with its place and what was found, without source code, and not without end', async (t) => {
  const { diagnostics } = await run('diagnosed', {
    apart: "t.equal('found', 'asked', 'texts')\nt.pass('a line of source')",
    long: "t.same(Array.from({ length: 500 }, (_, i) => i), [], 'lists')",
    thrown: "t.test('inner', async () => { throw new Error('why it was thrown') })",
  })
  t.match(diagnostics['apart'], /^ {4}at:\n {6}fileName: .*\bapart\n {6}lineNumber: 2$/m)
  t.match(diagnostics['apart'], /\n {6}-asked\n {6}\+found$/)
  t.notMatch(diagnostics['apart'], /a line of source/)
  t.equal(diagnostics['long']?.split('\n').length, 41)
  t.match(diagnostics['long'], /\n {4}… \d{3} lines more$/)
  t.match(diagnostics['thrown'], /stack:/)
})

// How tap says it depends on what the file was at.
t.test('a file that takes too long fails, once and by its name', async (t) => {
  const slow = "t.test('inner', async (t) => { t.pass('one'); setInterval(() => {}, 1000); await new Promise(() => {}) })"
  const { results } = await run('late', { slow }, 2)
  const failed = results.filter(({ complaints }) => complaints.length > 0)
  t.match(failed, [{ file: 'slow', complaints: [/^FAILED slow: (timeout!|it took too long|it ended badly.*)$/] }])
  t.equal(failed.length, 1)
})

// Whether a file beside it is over by then is the machine's affair.
t.test('a file that tap says nothing of fails: it bailed out', async (t) => {
  const { results } = await run('bail', { a: "t.fail('one')", b: "t.bailout('no')", c: "t.pass('two')" })
  t.same(results.find(({ file }) => file === 'b'), { file: 'b', passed: 0, complaints: ['FAILED b: it did not run to its end; see bail.tap'] })
  t.notSame(results.find(({ file }) => file === 'a')?.complaints, [])
  t.ok(results.some(({ file }) => file === 'c'), 'each file has a result')
})
