/** The write limit of a vsock, on a unix socket: the class does not care what family its descriptor is of. */
import { once } from 'node:events'
import { closeSync, mkdtempSync, rmSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { execa } from 'execa'
import t from 'tap'
import { addon } from '#shared/os/addon.ts'
import { VSOCK_WRITE_BYTES_MAX } from '#shared/os/contract.ts'
import { ready } from '#shared/os/poll.ts'
import { VsockSocket } from '#shared/os/vsock-socket.ts'
import { pattern } from './os-contract.ts'

await execa('make', ['os-addon'])

/** A VsockSocket and its peer, and the size of every write the handle was given. */
async function connected(t: { teardown(undo: () => unknown): void }) {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-split-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 's')
  const listener = addon().unixListen(path)
  const peer = connect(path)
  await Promise.all([once(peer, 'connect'), ready(addon(), listener, 'read')])
  const socket = new VsockSocket(addon().unixAccept(listener), { cid: 3, port: 1 })
  closeSync(listener)
  return { socket, peer, sizes: recordWrites(socket) }
}

/** Replaces the write methods of the socket's handle by ones that note the size first. */
function recordWrites(socket: Socket): number[] {
  const sizes: number[] = []
  const handle: unknown = Reflect.get(socket, '_handle')
  if (typeof handle !== 'object' || handle === null) throw new Error('the socket has no handle')
  for (const name of ['writeBuffer', 'writeUtf8String', 'writeLatin1String', 'writeAsciiString', 'writeUcs2String']) {
    const original: unknown = Reflect.get(handle, name)
    if (typeof original !== 'function') throw new Error(`the handle has no ${name}`)
    Reflect.set(handle, name, (request: object, data: Uint8Array | string) => {
      sizes.push(typeof data === 'string' ? Buffer.byteLength(data) : data.byteLength)
      return Reflect.apply(original, handle, [request, data])
    })
  }
  Reflect.set(handle, 'writev', () => {
    throw new Error('writev would bypass the limit')
  })
  return sizes
}

await t.test('one long write', async (t) => {
  const { socket, peer, sizes } = await connected(t)
  const sent = pattern(5 * 1024 * 1024 + 11)
  const received = buffer(peer)
  socket.end(sent)
  t.ok(sent.equals(await received))
  t.equal(Math.max(...sizes), VSOCK_WRITE_BYTES_MAX)
  t.equal(socket.bytesWritten, sent.length)
  socket.destroy()
})

await t.test('many corked writes, of text too', async (t) => {
  const { socket, peer, sizes } = await connected(t)
  const received = buffer(peer)
  const parts = Array.from({ length: 400 }, (_, i) => (i % 3 === 0 ? 'é'.repeat(i) : pattern(i * 7)))
  socket.cork()
  for (const part of parts) socket.write(part)
  socket.uncork()
  socket.end()
  t.ok(Buffer.concat(parts.map((part) => Buffer.from(part))).equals(await received))
  t.ok(Math.max(...sizes) <= VSOCK_WRITE_BYTES_MAX)
  t.ok(sizes.length < parts.length, 'short writes travel together')
  socket.destroy()
})

await t.test('a peer that goes away mid-write fails the write', async (t) => {
  const { socket, peer } = await connected(t)
  const failed = once(socket, 'error')
  socket.write(pattern(8 * 1024 * 1024))
  peer.destroy()
  const [error] = await failed
  t.match(error, { code: /EPIPE|ECONNRESET/ })
})
