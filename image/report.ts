/** What takes the space in the image. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** What a file of the root belongs to; the first pattern that fits counts. */
const groups: readonly (readonly [name: string, pattern: RegExp])[] = [
  ['Node', /^usr\/bin\/node$/],
  ['agent, start-up snapshot', /agent\.blob$/],
  ['agent, plain bundle', /agent\.cjs$/],
  ['native addon', /os\.node$/],
  ['init', /^usr\/sbin\/init$/],
  ['crun', /^usr\/bin\/crun$/],
  ['libraries', /\.so(\.|$)/],
  ['kernel modules', /\.ko$/],
]

export interface Share {
  readonly name: string
  readonly bytes: number
}

/** Bytes of each group below `root`, largest first; what fits no group is "other". */
export async function shares(root: string): Promise<Share[]> {
  const sums = new Map<string, number>()
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const name = groups.find(([, pattern]) => pattern.test(path.slice(root.length + 1)))?.[0] ?? 'other'
    sums.set(name, (sums.get(name) ?? 0) + (await stat(path)).size)
  }
  return [...sums].map(([name, bytes]) => ({ name, bytes })).sort((a, b) => b.bytes - a.bytes)
}

/** A table with a bar for each line, relative to the largest. */
export function table(lines: readonly Share[]): string {
  const largest = Math.max(...lines.map(({ bytes }) => bytes))
  const width = Math.max(...lines.map(({ name }) => name.length))
  const row = ({ name, bytes }: Share) => {
    const bar = '█'.repeat(Math.max(1, Math.round((bytes / largest) * BAR_WIDTH)))
    return `  ${name.padEnd(width)} ${(bytes / 1e6).toFixed(2).padStart(8)} MB  ${bar}`
  }
  return lines.map(row).join('\n')
}

const BAR_WIDTH = 40
