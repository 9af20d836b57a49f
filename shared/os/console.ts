/** The receiving end of an OCI runtime's `--console-socket`. */
import { closeSync, unlinkSync } from 'node:fs'
import type { Addon } from './addon.ts'
import type { ConsoleListener } from './contract.ts'
import { attempt, isErrno } from './error.ts'
import { ready } from './poll.ts'

/** Listens at `path` (mode 0600, at most 107 bytes). Errors: EADDRINUSE when the path exists, ENOENT, ENAMETOOLONG. */
export async function listenConsole(addon: Addon, path: string): Promise<ConsoleListener> {
  const listener = attempt(`listen on console socket ${path}`, () => addon.unixListen(path))
  const disposed = new AbortController()
  let open = true
  return {
    receive(signal) {
      const signals = signal === undefined ? [disposed.signal] : [disposed.signal, signal]
      return receive(addon, path, listener, AbortSignal.any(signals))
    },
    async [Symbol.asyncDispose]() {
      if (!open) return
      open = false
      disposed.abort(new Error(`the console socket ${path} was closed`))
      closeSync(listener)
      try {
        unlinkSync(path)
      } catch (error) {
        if (!isErrno(error, 'ENOENT')) throw error
      }
    },
  }
}

/** Accepts one connection and takes the pty master from its first message. Errors: EBADMSG when it brings none. */
async function receive(addon: Addon, path: string, listener: number, signal: AbortSignal): Promise<number> {
  const about = `receive a terminal on ${path}`
  await ready(addon, listener, 'read', signal)
  const connection = attempt(about, () => addon.unixAccept(listener))
  try {
    await ready(addon, connection, 'read', signal)
    return attempt(about, () => addon.receiveFd(connection))
  } finally {
    closeSync(connection)
  }
}
