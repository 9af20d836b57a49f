/** The first bytes of a carrier, before anything flows. */
import type { Socket } from 'node:net'
import { RuntimeError } from '../errors.ts'

/**
 * Exactly `length` bytes; what follows them stays in the socket, which is paused. The socket is still the caller's after
 * an error: UNAVAILABLE when it ended before, the signal's reason.
 */
export async function readExactly(socket: Socket, length: number, signal: AbortSignal): Promise<Buffer> {
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  const look = () => {
    const bytes: unknown = socket.read(length)
    // At the end of its input a socket gives what there is.
    if (Buffer.isBuffer(bytes) && bytes.length === length) resolve(bytes)
    else if (socket.readableEnded || socket.destroyed || bytes !== null) ended()
  }
  const ended = () => reject(new RuntimeError('UNAVAILABLE', `the connection ended before ${length} bytes came`))
  const failed = (cause: Error) => reject(new RuntimeError('UNAVAILABLE', 'the connection failed', { cause }))
  const aborted = () => reject(signal.reason)
  signal.addEventListener('abort', aborted)
  socket.on('readable', look).on('end', ended).on('close', ended).on('error', failed)
  look()
  try {
    return await promise
  } finally {
    signal.removeEventListener('abort', aborted)
    socket.off('readable', look).off('end', ended).off('close', ended).off('error', failed)
    socket.pause()
  }
}
