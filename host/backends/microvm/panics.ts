/**
 * A helper written in Rust goes on without a thread of its own that panicked, and serves its guest no more: the guest
 * would look frozen, and only its heartbeat would find out. What it says of that is in its log.
 */
import { open } from 'node:fs/promises'
import { isErrno } from '#shared/os/error.ts'
import { logFile } from './paths.ts'

/** A panic is the last thing that a helper says, so it is in the end of its log. */
const TAIL_BYTES = 8 * 1024
const SAID_LENGTH_MAX = 300

export interface Panic {
  readonly name: string
  /** "a thread panicked at …: …", one line of at most 300 characters */
  readonly said: string
  /** When it was found, as Date.now() */
  readonly atMs: number
}

export class Panics {
  /** Resolves at the first. Never rejects. */
  readonly first: Promise<Panic>
  readonly #resolve: (panic: Panic) => void
  readonly #dir: string
  readonly #names: readonly string[]

  /** Of the processes with these names, whose logs are in `dir`. */
  constructor(dir: string, names: readonly string[]) {
    const { promise, resolve } = Promise.withResolvers<Panic>()
    this.first = promise
    this.#resolve = resolve
    this.#dir = dir
    this.#names = names
  }

  /** Looks at the end of a log, or of all. Rejects when one cannot be read; one that is not there says nothing. */
  async look(file?: string): Promise<void> {
    for (const name of this.#names) {
      const path = logFile(this.#dir, name)
      if (file !== undefined && file !== path) continue
      const said = panicIn(await tailOf(path))
      if (said !== undefined) this.#resolve({ name, said, atMs: Date.now() })
    }
  }
}

/** Source: Rust, std::panicking, default_hook: "thread 'NAME' panicked at FILE:LINE:COLUMN:" and the message in the next line. */
export function panicIn(text: string): string | undefined {
  const found = /^thread '[^'\n]*'[^\n]* panicked at ([^\n]+)(?:\n([^\n]*))?/m.exec(text)
  if (found === null) return undefined
  const [, place = '', message = ''] = found
  return `a thread panicked at ${place} ${message}`.trim().slice(0, SAID_LENGTH_MAX)
}

async function tailOf(path: string): Promise<string> {
  let file
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return ''
    throw error
  }
  try {
    const { size } = await file.stat()
    const { buffer, bytesRead } = await file.read(Buffer.alloc(TAIL_BYTES), 0, TAIL_BYTES, Math.max(0, size - TAIL_BYTES))
    return buffer.toString('latin1', 0, bytesRead)
  } finally {
    await file.close()
  }
}
