/** Waiting until a descriptor can be read or written. */
import { attempt } from './error.ts'

/** An opaque readiness watcher; give it to pollStop exactly once. */
export interface Watcher {
  readonly [watcher]: never
}
declare const watcher: unique symbol

/** What the native addon has for this. */
export interface PollCalls {
  pollStart(fd: number, events: number, onReady: () => void): Watcher
  pollStop(watcher: Watcher): void
}

const POLL_READ = 1
const POLL_WRITE = 2

/**
 * Resolves when `fd` can be read or written, or has an error (the call that follows reports it). An abort rejects with
 * the signal's reason at once. The caller keeps `fd` and may close it after either outcome.
 */
export function ready(addon: PollCalls, fd: number, direction: 'read' | 'write', signal?: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  if (signal?.aborted) return Promise.reject(signal.reason)
  const watch = start(addon, fd, direction === 'read' ? POLL_READ : POLL_WRITE, () => {
    settle()
    resolve()
  })
  const onAbort = () => {
    settle()
    reject(signal?.reason)
  }
  const settle = () => {
    signal?.removeEventListener('abort', onAbort)
    watch[Symbol.dispose]()
  }
  signal?.addEventListener('abort', onAbort, { once: true })
  return promise
}

/** Calls back each time the loop finds `fd` readable, until disposed. Dispose before closing `fd`. */
export function watchReadable(addon: PollCalls, fd: number, onReadable: () => void): Disposable {
  return start(addon, fd, POLL_READ, onReadable)
}

function start(addon: PollCalls, fd: number, events: number, onReady: () => void): Disposable {
  const watcher = attempt(`watch descriptor ${fd}`, () => addon.pollStart(fd, events, onReady))
  let active = true
  return {
    [Symbol.dispose]() {
      if (!active) return
      active = false
      addon.pollStop(watcher)
    },
  }
}
