/**
 * Bounds the logs of a sandbox, whatever its guest prints. Writers append (O_APPEND) and never stop; a log that grew
 * past its limit is cut back to its tail. inotify says when one grew, so a quiet sandbox costs nothing. What a guest
 * can make talk is held by the kernel as well: it must not fill /run while no sandboxer is there.
 */
import { type FSWatcher, watch } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import type { Log } from '#shared/log.ts'
import { isErrno } from '#shared/os/error.ts'

/** A log longer than this is cut. */
export const LOG_BYTES_MAX = 1024 * 1024
/** What a process may make of one; output faster than logs are cut is lost. */
export const LOG_BYTES_HARD_MAX = 4 * LOG_BYTES_MAX
/** What a cut leaves. */
const TAIL_BYTES = 64 * 1024
/** Between two looks at a log that keeps growing, in ms. */
const LOOK_MS = 100

/**
 * Watches every `*.log` of a directory until disposed; `grew` hears the path of one that has grown, soon after. Never
 * throws: a machine whose inotify watches are used up (fs.inotify.max_user_watches) costs no guest its life.
 */
export function boundLogs(dir: string, log: Log, grew: (path: string) => Promise<void> = async () => {}): Disposable {
  const pending = new Map<string, NodeJS.Timeout>()
  const look = (name: string) => {
    pending.delete(name)
    const path = join(dir, name)
    grew(path)
      .then(() => cutLog(path))
      .catch((error: unknown) => log.warn('a log could not be looked at', { name, error }))
  }
  const grown = (name: string | null) => {
    if (name === null || !name.endsWith('.log') || pending.has(name)) return
    pending.set(name, setTimeout(look, LOOK_MS, name).unref())
  }
  let watcher: FSWatcher | undefined
  try {
    watcher = watch(dir, { persistent: false }, (_, name) => grown(name))
    watcher.on('error', (error) => log.warn('logs are no longer bounded', { dir, error }))
  } catch (error) {
    log.warn('logs are not bounded', { dir, error })
  }
  return {
    [Symbol.dispose]() {
      watcher?.close()
      for (const timer of pending.values()) clearTimeout(timer)
      pending.clear()
    },
  }
}

/**
 * RLIMIT_FSIZE of a process that writes no file but its logs; not of virtiofsd, whose guest writes files. For a VMM once
 * it runs: the limit counts for the descriptor behind the guest's memory too, which has its size by then. Whoever grows
 * that later must lift the limit first.
 */
export async function limitFileSize(pid: number): Promise<void> {
  await execa('prlimit', [`--pid=${pid}`, `--fsize=${LOG_BYTES_HARD_MAX}`])
}

/** What is printed between the cut and the return of the tail comes out before it. */
export async function cutLog(path: string): Promise<void> {
  let file
  try {
    file = await open(path, 'r+')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return
    throw error
  }
  try {
    const { size } = await file.stat()
    if (size <= LOG_BYTES_MAX) return
    const tail = Buffer.alloc(TAIL_BYTES)
    const { bytesRead } = await file.read(tail, 0, tail.length, size - tail.length)
    await file.truncate(0)
    await appendTo(path, tail.subarray(0, bytesRead))
  } finally {
    await file.close()
  }
}

async function appendTo(path: string, bytes: Buffer): Promise<void> {
  const file = await open(path, 'a')
  try {
    await file.write(bytes)
  } finally {
    await file.close()
  }
}
