/**
 * Where records live: one file per sandbox, mode 0600, replaced as a whole. A write has happened entirely or not at
 * all, whenever the machine stops.
 */
import { chmod, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { explain, RuntimeError } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

export interface RecordStore {
  /** Durable when it resolves. Errors: RESOURCE_EXHAUSTED when there is no room for it; the record before it stays. */
  write(id: string, text: string): Promise<void>
  /** Idempotent; durable when it resolves. */
  remove(id: string): Promise<void>
  /** Every record, in no order. */
  list(): Promise<readonly { readonly id: string; readonly text: string }[]>
  /** Moves an unreadable record out of the way, for a person to look at; returns where to. */
  quarantine(id: string): Promise<string>
}

const SUFFIX = '.json'

export class DirectoryStore implements RecordStore {
  readonly #dir: string
  readonly #quarantine: string

  private constructor(dir: string, quarantine: string) {
    this.#dir = dir
    this.#quarantine = quarantine
  }

  /** `dir` is made when it is missing, 0700. */
  static async open(dir: string): Promise<DirectoryStore> {
    const quarantine = join(dir, 'unreadable')
    await mkdir(quarantine, { recursive: true, mode: 0o700 })
    await chmod(dir, 0o700)
    // Left by a crash between write and rename: the record itself is the older, whole one.
    for (const name of await readdir(dir)) if (name.endsWith('.tmp')) await rm(join(dir, name), { force: true })
    return new DirectoryStore(dir, quarantine)
  }

  async write(id: string, text: string): Promise<void> {
    const path = this.#path(id)
    const temporary = `${path}.tmp`
    try {
      await writeDurably(temporary, text)
      await rename(temporary, path)
    } catch (error) {
      // Half a record takes room that the next one may want.
      await rm(temporary, { force: true })
      throw unwritten(id, path, error)
    }
    await this.#sync()
  }

  async remove(id: string): Promise<void> {
    await rm(this.#path(id), { force: true })
    await this.#sync()
  }

  async list(): Promise<readonly { readonly id: string; readonly text: string }[]> {
    const names = (await readdir(this.#dir)).filter((name) => name.endsWith(SUFFIX))
    return Promise.all(
      names.map(async (name) => ({ id: name.slice(0, -SUFFIX.length), text: await readFile(join(this.#dir, name), 'utf8') })),
    )
  }

  async quarantine(id: string): Promise<string> {
    const target = join(this.#quarantine, `${id}-${Date.now()}${SUFFIX}`)
    await rename(this.#path(id), target)
    await this.#sync()
    return target
  }

  #path(id: string): string {
    return join(this.#dir, id + SUFFIX)
  }

  /** A rename is durable only when its directory is. Source: fsync(2). */
  async #sync(): Promise<void> {
    const dir = await open(this.#dir, 'r')
    try {
      await dir.sync()
    } finally {
      await dir.close()
    }
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

function unwritten(id: string, path: string, cause: unknown): RuntimeError {
  const full = isErrno(cause, 'ENOSPC') || isErrno(cause, 'EDQUOT')
  const advice = full ? '; free some room there (df, df -i)' : ''
  return new RuntimeError(full ? 'RESOURCE_EXHAUSTED' : 'INTERNAL', `the record of sandbox ${id} cannot be written to ${path}: ${explain(cause)}${advice}`, { cause })
}
