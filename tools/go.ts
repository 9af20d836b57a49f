/**
 * Whether the machine's Go can build a module of this repository: `node tools/go.ts FOLDER` says what is lacking, and fails.
 * `make conformance` stops there; tests that want Go are skipped, and name it.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { execaSync } from 'execa'

/** What the machine lacks to build the module in `folder`; undefined when it lacks nothing. */
export function lackOfGo(folder: string): string | undefined {
  const needed = /^go ([\d.]+)$/m.exec(readFileSync(join(folder, 'go.mod'), 'utf8'))?.[1]
  if (needed === undefined) throw new Error(`${folder}/go.mod has no line "go VERSION"`)
  // In that folder: from 1.21 on, Go fetches the version that go.mod asks for, and this is the one that would build.
  const { stdout, stderr, code } = execaSync('go', ['version'], { cwd: folder, reject: false })
  const found = /^go version go([\d.]+)/.exec(stdout)?.[1]
  if (found !== undefined && isAtLeast(found, needed)) return undefined
  return `Go ${needed} or newer, found ${found ?? (code === 'ENOENT' ? 'none' : JSON.stringify(stdout || stderr))}`
}

function isAtLeast(found: string, needed: string): boolean {
  const have = found.split('.').map(Number)
  for (const [index, least] of needed.split('.').map(Number).entries()) {
    const number = have[index] ?? 0
    if (number !== least) return number > least
  }
  return true
}

if (import.meta.main) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error('name the folder of a go.mod: node tools/go.ts test/conformance')
  const lack = lackOfGo(folder)
  if (lack !== undefined) {
    console.error(`${folder} needs ${lack}; see https://go.dev/dl`)
    process.exitCode = 1
  }
}
