/** Console sockets as a table of paths. */
import type { ConsoleListener } from './contract.ts'
import { OsError } from './error.ts'

interface Listening {
  readonly received: PromiseWithResolvers<number>
}

export class FakeConsoles {
  readonly #listening = new Map<string, Listening>()

  listen(path: string): ConsoleListener {
    if (this.#listening.has(path)) throw new OsError('EADDRINUSE', 'bind', `listen on console socket ${path}: in use (EADDRINUSE)`)
    const received = Promise.withResolvers<number>()
    received.promise.catch(() => {})
    this.#listening.set(path, { received })
    return {
      async receive(signal) {
        signal?.throwIfAborted()
        const aborted = Promise.withResolvers<never>()
        const onAbort = () => aborted.reject(signal?.reason)
        signal?.addEventListener('abort', onAbort, { once: true })
        try {
          return await Promise.race([received.promise, aborted.promise])
        } finally {
          signal?.removeEventListener('abort', onAbort)
        }
      },
      [Symbol.asyncDispose]: async () => {
        this.#listening.delete(path)
        received.reject(new Error(`the console socket ${path} was closed`))
      },
    }
  }

  send(path: string, fd: number): void {
    const listening = this.#listening.get(path)
    if (listening === undefined) throw new OsError('ENOENT', 'connect', `nobody listens on console socket ${path} (ENOENT)`)
    listening.received.resolve(fd)
  }
}
