/**
 * Runs groups of tests and closes with `N passed, N failed` alone on the last line.
 *
 *   node tools/test.ts unit integration
 *
 * A skip is a failure unless its reason names what the machine lacks ("lacks: …"); so is a todo, and a file that asserts
 * nothing: a test that quietly does not run promises nothing. The whole TAP of each group is kept in
 * build/test/GROUP.tap.
 */
import { globSync, mkdirSync } from 'node:fs'
import { clean, type FileResult, runFiles } from './test-files.ts'

interface Group {
  readonly patterns: readonly string[]
  readonly jobs: number
  /** Limit for one test file, in seconds. */
  readonly timeoutSeconds: number
  /**
   * So many files may fail and be tried once more, alone; when more fail, none is. Emulated machines on a shared
   * processor meet delays no test foresees, and one of those must not hide what all the others say. A first failure is
   * printed at the end all the same: each is a fault of the product or of its test, and wants to be explained.
   */
  readonly secondTriesMax: number
}

const groups: Readonly<Record<string, Group>> = {
  unit: {
    patterns: ['shared/**/*.test.ts', 'host/**/*.test.ts', 'guest/**/*.test.ts', 'image/**/*.test.ts', 'test/unit/**/*.test.ts'],
    jobs: 2,
    timeoutSeconds: 180,
    secondTriesMax: 0,
  },
  // Each file runs a whole node, and its emulated machine keeps one core busy at most.
  integration: { patterns: ['test/integration/**/*.test.ts'], jobs: 2, timeoutSeconds: 900, secondTriesMax: 2 },
  // One file, which keeps both cores busy by itself: nearly each of its specs boots a machine, and is tried again by itself.
  conformance: { patterns: ['test/conformance/**/*.test.ts'], jobs: 1, timeoutSeconds: 2400, secondTriesMax: 0 },
  containerds: { patterns: ['test/containerd/**/*.test.ts'], jobs: 1, timeoutSeconds: 900, secondTriesMax: 0 },
  kubernetes: { patterns: ['test/kubernetes/**/*.test.ts'], jobs: 1, timeoutSeconds: 1800, secondTriesMax: 0 },
  // A whole machine under emulation, and machines in it.
  lab: { patterns: ['test/lab/**/*.test.ts'], jobs: 1, timeoutSeconds: 1800, secondTriesMax: 0 },
}

const names = process.argv.slice(2)
if (names.length === 0) fail(`name at least one group: ${Object.keys(groups).join(', ')}`)
const results: FileResult[] = []
for (const name of names) {
  const group = groups[name] ?? fail(`unknown group ${JSON.stringify(name)}; there are ${Object.keys(groups).join(', ')}`)
  const startMs = performance.now()
  results.push(...(await runGroup(name, group)))
  console.log(`== ${name}: took ${((performance.now() - startMs) / 1000).toFixed(0)} s`)
}
for (const { notes, complaints } of results) for (const line of [...notes, ...complaints]) console.log(line)
const sum = (count: (result: FileResult) => number) => results.reduce((total, result) => total + count(result), 0)
const passed = sum((result) => result.passed)
const failed = sum((result) => result.complaints.length)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1

async function runGroup(name: string, group: Group): Promise<readonly FileResult[]> {
  const files = globSync([...group.patterns]).toSorted()
  if (files.length === 0) {
    return [{ file: name, passed: 0, notes: [], complaints: [`FAILED ${name}: no test file matches ${group.patterns.join(' ')}`] }]
  }
  mkdirSync('build/test', { recursive: true })
  const { jobs, timeoutSeconds, secondTriesMax } = group
  console.log(`\n== ${name}: ${files.length} files`)
  const first = await runFiles({ group: name, files, jobs, timeoutSeconds, keepAt: `build/test/${name}.tap` })
  const failures = first.filter((result) => !clean(result))
  // What is no file's own failure, tap's end for one, is not to be tried again.
  const again = failures.map(({ file }) => file).filter((file) => files.includes(file))
  if (failures.length === 0 || failures.length > secondTriesMax || again.length < failures.length) return first
  console.log(`\n== ${name}: a second try for ${again.length} files`)
  const second = await runFiles({ group: name, files: again, jobs: 1, timeoutSeconds, keepAt: `build/test/${name}-second.tap` })
  const noted = second.map((result) => {
    const before = failures.find(({ file }) => file === result.file)?.complaints ?? []
    return { ...result, notes: before.map((complaint) => `AT FIRST ${complaint}`) }
  })
  return [...first.filter(clean), ...noted]
}

function fail(message: string): never {
  console.error(`tools/test.ts: ${message}`)
  process.exit(2)
}
