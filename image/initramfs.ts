/** The initramfs: init, the modules that lead to the root disk, and their list. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { type CpioEntry, cpio } from './cpio.ts'
import type { Module } from './modules.ts'

/** Uncompressed: it is small, and unpacking costs the guest more than reading. Stage 1 of init reads /modules. */
export async function makeInitramfs(init: string, modules: readonly Module[]): Promise<Buffer> {
  const list = modules.map(({ path }) => `/${basename(path)}\n`).join('')
  const entries = [
    directory('dev'),
    directory('root'),
    file('init', 0o755, await readFile(init)),
    file('modules', 0o644, Buffer.from(list)),
  ]
  for (const { path } of modules) entries.push(file(basename(path), 0o644, await readFile(path)))
  return cpio(entries)
}

function directory(path: string): CpioEntry {
  return { kind: 'directory', path, mode: 0o755 }
}

function file(path: string, mode: number, content: Buffer): CpioEntry {
  return { kind: 'file', path, mode, content }
}
