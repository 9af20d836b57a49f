/** A line of containerd's releases (`2.3`) that the node's Debian does not have: which release stands for it, and its binary. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { checkout, inside } from '#test/node/paths.ts'
import { lackOfGo } from '../../tools/go.ts'

const folder = import.meta.dirname

/** All lines there are, the newest last. Each is a folder here. */
export const lines: readonly string[] = readdirSync(folder)
  .filter((name) => /^\d+\.\d+$/.test(name))
  .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))

/** The release that stands for a line, as in `2.3.7`. */
export function releaseOf(line: string): string {
  const found = /^\s*(?:require )?github\.com\/containerd\/containerd\/v2 v(\S+)/m.exec(readFileSync(join(folder, line, 'go.mod'), 'utf8'))?.[1]
  if (found === undefined) throw new Error(`test/containerd/${line}/go.mod does not require github.com/containerd/containerd/v2`)
  return found
}

/** What the machine lacks to build a line; undefined when it lacks nothing. */
export const lackFor = (line: string): string | undefined => lackOfGo(join(folder, line))

/** Builds a line's containerd unless it is built already, which takes two processors a minute or two; answers its path inside a node. */
export async function buildLine(line: string): Promise<string> {
  const path = `build/containerd/${line}`
  await execa('make', ['--no-print-directory', path], { cwd: checkout })
  return `${inside.checkout}/${path}`
}
