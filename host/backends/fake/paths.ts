/** Where a fake guest's things are, and how it is reached. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'

export const guestPaths = (dir: string) => ({ taskSocket: join(dir, 'task.sock'), console: join(dir, 'console.log') })

/** `signal` ends the dialling, not the connection. Errors: UNAVAILABLE. */
export async function dialUnix(path: string, signal: AbortSignal): Promise<Socket> {
  const socket = connect({ path })
  // Stays on: an error between two owners must not go unheard, which would end the process.
  socket.on('error', () => {})
  try {
    await once(socket, 'connect', { signal })
  } catch (cause) {
    socket.destroy()
    signal.throwIfAborted()
    throw new RuntimeError('UNAVAILABLE', `nothing answers at ${path}`, { cause })
  }
  return socket
}
