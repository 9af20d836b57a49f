/** What both halves of the vsock test in a VM agree on. */
import type { Socket } from 'node:net'

export const HOST_PORT = 1025
export const GUEST_PORT = 1024
export const ECHO_PORT = 1100
/** Nobody listens there. */
export const SILENT_PORT = 1999

/** Bytes in each direction on the connection the guest opens. */
export const GUEST_DIALS_BYTES = 64 * 1024 * 1024
/** And on the one the host opens: the same code, once it is open. */
export const HOST_DIALS_BYTES = 4 * 1024 * 1024

/** A prime, so that a lost, doubled or swapped block of any size changes the digest. */
const PERIOD_BYTES = 100_003

/** `bytes` that depend on `seed`; most of the work is a native copy, for a guest is slow. */
export function bulk(bytes: number, seed: number): Buffer {
  const period = Buffer.allocUnsafe(PERIOD_BYTES)
  for (let i = 0, x = seed; i < PERIOD_BYTES; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0
    period[i] = x >>> 24
  }
  return Buffer.alloc(bytes, period)
}

/** Reads as many bytes as expected; answers the offset of the first chunk that differs, if one does. */
export async function readBulk(socket: Socket, expected: Buffer): Promise<number | undefined> {
  let at = 0
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    if (!Buffer.isBuffer(chunk)) throw new Error('the socket reads text')
    if (!chunk.equals(expected.subarray(at, at + chunk.length))) return at
    at += chunk.length
    if (at >= expected.length) return undefined
  }
  return at
}
