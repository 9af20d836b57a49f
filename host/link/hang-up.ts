/**
 * Ending a connection of a hybrid vsock so that the guest hears of it, and its device survives it.
 *
 * A plain close(2) is not enough for vhost-device-vsock 0.3.0. With bytes unread the kernel tells it ECONNRESET, which it
 * passes over: the guest's end of the connection then stays open for good. And a close between CONNECT and its answer
 * ends the device's only thread, and every connection of the guest with it, when the guest's answer comes after all.
 * So an answer is always waited for, and what comes is read to its end. The device's guard (vsock-guard.c) keeps it alive
 * when a process is killed instead; a connection may then stay in the device, which this avoids.
 */
import type { Socket } from 'node:net'

/** What a guest that lives gets to close its end, in ms; one that does not is found out by its heartbeat. */
export const LINGER_MS_MAX = 60_000

/** Says our end and drops what still comes, until the guest has closed too. The socket is nobody else's from here on. Idempotent. */
export function hangUp(socket: Socket): void {
  linger(socket)
  socket.end()
  socket.resume()
}

/** Hangs up once the answer to CONNECT has come. The socket may not even be connected yet. */
export function hangUpOnceAnswered(socket: Socket): void {
  linger(socket)
  socket.once('data', () => hangUp(socket))
  socket.resume()
}

const lingering = new WeakSet<Socket>()

function linger(socket: Socket): void {
  if (lingering.has(socket)) return
  lingering.add(socket)
  socket.on('error', () => {})
  const timer = setTimeout(() => socket.destroy(), LINGER_MS_MAX).unref()
  socket.once('close', () => clearTimeout(timer))
}
