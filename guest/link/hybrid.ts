/**
 * The guest's half of a hybrid vsock, for an agent outside a VM: a client may begin with "CONNECT port\n" and is then
 * answered "OK port\n", or speak at once. A ttrpc frame never begins with a "C", which would make it 1.1 GB long.
 */
import type { Socket } from 'node:net'

const LINE_BYTES_MAX = 32
const HANDSHAKE_MS_MAX = 10_000

export function acceptHybrid(socket: Socket, accept: (socket: Socket) => void): void {
  let received = Buffer.alloc(0)
  const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS_MAX)
  const settle = () => {
    clearTimeout(timer)
    socket.off('data', onData)
    socket.off('close', settle)
    socket.off('error', settle)
    socket.pause()
  }
  const hand = (rest: Buffer) => {
    settle()
    if (rest.length > 0) socket.unshift(rest)
    accept(socket)
    socket.resume()
  }
  const onData = (chunk: Buffer) => {
    received = Buffer.concat([received, chunk])
    if (received[0] !== 0x43) return hand(received)
    const end = received.indexOf('\n')
    if (end < 0 && received.length <= LINE_BYTES_MAX) return
    const port = /^CONNECT (\d+)$/.exec(received.toString('latin1', 0, Math.max(0, end)))?.[1]
    if (port === undefined) {
      settle()
      socket.destroy()
      return
    }
    socket.write(`OK ${port}\n`)
    hand(received.subarray(end + 1))
  }
  socket.on('data', onData)
  socket.on('close', settle)
  socket.on('error', settle)
}
