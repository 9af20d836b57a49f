/** Those who wait for a sandbox's end. They come and go with containerd's connections; the sandbox outlives them. */
import type { Exit } from './state.ts'

export class Waiters {
  readonly #waiting = new Set<(exit: Exit) => void>()

  /** Rejects with the signal's reason when the caller has gone. */
  wait(signal: AbortSignal): Promise<Exit> {
    const { promise, resolve, reject } = Promise.withResolvers<Exit>()
    const onAbort = () => reject(signal.reason)
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    this.#waiting.add(resolve)
    return promise.finally(() => {
      this.#waiting.delete(resolve)
      signal.removeEventListener('abort', onAbort)
    })
  }

  tell(exit: Exit): void {
    for (const resolve of this.#waiting) resolve(exit)
  }
}
