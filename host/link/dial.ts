/**
 * Dialling a port of a guest through a hybrid vsock socket, as Firecracker defined it and Cloud Hypervisor and
 * vhost-device-vsock speak it:
 *
 *   → CONNECT 1024\n
 *   ← OK 1073741824\n      then the connection is the guest's; without a listener it just ends
 *
 * Source: Firecracker, docs/vsock.md, "Host-initiated connections".
 */
import { connect, type Socket } from 'node:net'
import { RuntimeError, explain } from '#shared/errors.ts'
import { hangUp, hangUpOnceAnswered } from './hang-up.ts'

/** "OK 4294967295\n" is 14 bytes. */
const ANSWER_BYTES_MAX = 32
/** The limit where the caller's signal sets none, in ms. */
const DIAL_TIMEOUT_MS = 10_000

/** The socket comes paused: resume it once listeners are on. Errors: UNAVAILABLE when nothing listens or answers; the signal's reason when it is aborted. */
export async function dialHybrid(path: string, port: number, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted()
  const socket = connect({ path })
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const fail = (why: string, cause?: unknown) =>
    reject(new RuntimeError('UNAVAILABLE', `vsock port ${port} through ${path}: ${why}`, { cause }))
  const timer = setTimeout(() => fail(`no answer in ${DIAL_TIMEOUT_MS} ms`), DIAL_TIMEOUT_MS)
  const onAbort = () => reject(signal.reason)
  const onError = (error: Error) => fail(explain(error), error)
  const onEnd = () => fail('the connection ended; nothing listens on the port, or the guest is not up')
  let answer: Buffer = Buffer.alloc(0)
  const onData = (chunk: Buffer) => {
    answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk])
    const newline = answer.indexOf(0x0a)
    if (newline === -1) {
      if (answer.length >= ANSWER_BYTES_MAX) fail(`expected "OK", got ${JSON.stringify(answer.toString('latin1', 0, ANSWER_BYTES_MAX))}`)
      return
    }
    const line = answer.toString('latin1', 0, Math.min(newline, ANSWER_BYTES_MAX))
    if (!/^OK \d+$/.test(line)) return fail(`expected "OK", got ${JSON.stringify(line)}`)
    socket.pause()
    const rest = answer.subarray(newline + 1)
    if (rest.length > 0) socket.unshift(rest)
    resolve()
  }
  signal.addEventListener('abort', onAbort)
  // Stays on: an error between two owners must not go unheard, which would end the process.
  socket.on('error', () => {})
  socket.once('connect', () => socket.write(`CONNECT ${port}\n`)).on('error', onError).on('end', onEnd).on('close', onEnd).on('data', onData)
  try {
    await promise
    return socket
  } catch (error) {
    if (answer.length > 0) hangUp(socket)
    else hangUpOnceAnswered(socket)
    throw error
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    socket.off('error', onError).off('end', onEnd).off('close', onEnd).off('data', onData)
  }
}
