/** Ending a TCP connection so that nobody takes what came for the whole. */
import type { Socket } from 'node:net'

/** RST, and gone. Idempotent. */
export function reset(socket: Socket): void {
  // libuv refuses to reset what is being shut down, and Node then leaks it. All was written in that case: the end is true.
  const shuttingDown = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0
  if (shuttingDown || socket.destroyed) socket.destroy()
  else socket.resetAndDestroy()
}
