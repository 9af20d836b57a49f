/**
 * Runs groups of tests and closes with `N passed, N failed` alone on the last line.
 *
 *   node tools/test.ts unit integration
 *
 * A skip is a failure unless its reason names what the machine lacks ("lacks: …"): a test that quietly does not run
 * promises nothing. The whole TAP of each group is kept in build/test/GROUP.tap.
 */
import { spawn } from 'node:child_process'
import { createWriteStream, globSync, mkdirSync } from 'node:fs'
import { createInterface } from 'node:readline'

interface Group {
  readonly patterns: readonly string[]
  readonly jobs: number
  /** Limit for one test file, in seconds. */
  readonly timeoutSeconds: number
}

const groups: Readonly<Record<string, Group>> = {
  unit: {
    patterns: ['shared/**/*.test.ts', 'host/**/*.test.ts', 'guest/**/*.test.ts', 'image/**/*.test.ts', 'test/unit/**/*.test.ts'],
    jobs: 2,
    timeoutSeconds: 180,
  },
  // Each file runs a whole node, and its emulated machine keeps one core busy at most.
  integration: { patterns: ['test/integration/**/*.test.ts'], jobs: 2, timeoutSeconds: 900 },
  // One file, which keeps both cores busy by itself: nearly each of its specs boots a machine.
  conformance: { patterns: ['test/conformance/**/*.test.ts'], jobs: 1, timeoutSeconds: 2400 },
  // A whole machine under emulation, and machines in it.
  lab: { patterns: ['test/lab/**/*.test.ts'], jobs: 1, timeoutSeconds: 1800 },
}

interface Tally {
  passed: number
  failed: number
  readonly complaints: string[]
}

const tally: Tally = { passed: 0, failed: 0, complaints: [] }
const names = process.argv.slice(2)
if (names.length === 0) fail(`name at least one group: ${Object.keys(groups).join(', ')}`)
for (const name of names) {
  const group = groups[name] ?? fail(`unknown group ${JSON.stringify(name)}; there are ${Object.keys(groups).join(', ')}`)
  await run(name, group)
}
for (const complaint of tally.complaints) console.log(complaint)
console.log(`${tally.passed} passed, ${tally.failed} failed`)
process.exitCode = tally.failed === 0 && tally.passed > 0 ? 0 : 1

async function run(name: string, group: Group): Promise<void> {
  const files = globSync([...group.patterns]).toSorted()
  if (files.length === 0) {
    tally.failed++
    tally.complaints.push(`FAILED ${name}: no test file matches ${group.patterns.join(' ')}`)
    return
  }
  console.log(`\n== ${name}: ${files.length} files`)
  mkdirSync('build/test', { recursive: true })
  const keep = createWriteStream(`build/test/${name}.tap`)
  const child = spawn(
    'tap',
    ['--reporter=tap', `--jobs=${group.jobs}`, `--timeout=${group.timeoutSeconds}`, '--no-color', ...files],
    // A process group of its own, so that an interrupted run takes tap and every test file with it.
    { stdio: ['ignore', 'pipe', 'inherit'], detached: true },
  )
  const interrupt = (signal: NodeJS.Signals) => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
    fail(`interrupted by ${signal}`)
  }
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve(code ?? 1))
  })
  const before = tally.failed
  for await (const line of createInterface({ input: child.stdout })) {
    keep.write(`${line}\n`)
    read(name, line)
  }
  keep.end()
  const code = await ended
  process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
  if (code !== 0 && tally.failed === before) {
    tally.failed++
    tally.complaints.push(`FAILED ${name}: tap ended with code ${code}; see build/test/${name}.tap`)
  }
}

/** One line of TAP: leaf results are counted, files and failures are shown. */
function read(group: string, line: string): void {
  const match = /^( *)(not )?ok \d+ ?(.*)$/.exec(line)
  if (match === null) return
  const [, indent = '', not, text = ''] = match
  const skipped = / # SKIP ?(.*)$/i.exec(text)
  if (skipped !== null && !/\blacks: \S/.test(skipped[1] ?? '')) {
    tally.failed++
    tally.complaints.push(`FAILED ${group}: skipped without naming what the machine lacks: ${text}`)
  } else if (skipped !== null) {
    console.log(`  skipped ${text}`)
  }
  if (indent === '') console.log(`  ${not === undefined ? 'ok    ' : 'FAILED'} ${text}`)
  // Subtests close with a line that carries their time; assertions carry none.
  if (/ # time=/.test(text) || skipped !== null) return
  if (not === undefined) tally.passed++
  else {
    tally.failed++
    tally.complaints.push(`FAILED ${group}: ${text}`)
  }
}

function fail(message: string): never {
  console.error(`tools/test.ts: ${message}`)
  process.exit(2)
}
