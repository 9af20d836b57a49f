/** What a vsock's sockets and listeners do, on unix sockets: our code does not care what family a descriptor is of. */
import { once } from 'node:events'
import { closeSync, mkdtempSync, rmSync } from 'node:fs'
import { connect as connectHttp2, createServer as createHttp2Server } from 'node:http2'
import { type Socket, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Duplex, duplexPair, pipeline } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import { addon } from '#shared/os/addon.ts'
import { CID_ANY, VSOCK_WRITE_BYTES_MAX } from '#shared/os/contract.ts'
import { OsError } from '#shared/os/error.ts'
import { ready } from '#shared/os/poll.ts'
import { createVsock } from '#shared/os/vsock/vsock.ts'
import { VsockSocket } from '#shared/os/vsock/socket.ts'
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

/** As shared/os/README.md has it: node:tls and node:http2 write past a net.Socket they are given, to its handle. */
function piped(socket: Socket): Duplex {
  const [plain, far] = duplexPair()
  pipeline(far, socket, far, () => {})
  return plain
}

/** Every byte was written by the socket itself, and none of the writes was too long. */
function withinLimit(t: Test, sizes: readonly number[], bytesMin: number): void {
  t.ok(sizes.reduce((sum, size) => sum + size, 0) > bytesMin, 'all of it was seen')
  t.ok(Math.max(...sizes) <= VSOCK_WRITE_BYTES_MAX)
}

await t.test('TLS over a Duplex that is piped to the socket', async (t) => {
  const { socket, peer, sizes } = await connected(t)
  const options = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const
  const psk = pattern(16)
  const server = createTlsServer({ ...options, pskCallback: () => psk })
  const received = once(server, 'secureConnection').then(([secure]) => buffer(secure))
  server.emit('connection', peer)
  const client = connectTls({
    ...options,
    socket: piped(socket),
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ psk, identity: 'guest' }),
  })
  const sent = pattern(1024 * 1024)
  client.end(sent)
  t.ok(sent.equals(await received))
  withinLimit(t, sizes, sent.length)
  client.destroy()
})

await t.test('HTTP/2 over a Duplex that is piped to the socket', async (t) => {
  const { socket, peer, sizes } = await connected(t)
  const server = createHttp2Server()
  const received = once(server, 'stream').then(async ([stream]) => {
    const all = await buffer(stream)
    stream.respond()
    stream.end('thanks')
    return all
  })
  server.emit('connection', peer)
  const client = connectHttp2('http://guest', { createConnection: () => piped(socket) })
  const request = client.request({ ':method': 'POST' })
  const sent = pattern(1024 * 1024)
  request.end(sent)
  t.ok(sent.equals(await received))
  t.equal(String(await buffer(request)), 'thanks')
  withinLimit(t, sizes, sent.length)
  client.destroy()
  await once(socket, 'close')
})

await t.test('what a connection’s handler throws is not taken for a failed accept', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-accept-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 's')
  const readable: (() => void)[] = []
  const vsock = createVsock(() => ({
    ...addon(),
    vsockListen: () => addon().unixListen(path),
    vsockAddress: () => [CID_ANY, 1],
    vsockAccept: (fd) => [addon().unixAccept(fd), 3, 1],
    pollStart: (fd, events, onReady) => {
      readable.push(onReady)
      return addon().pollStart(fd, events, () => {})
    },
  }))
  const listener = await vsock.listen(1, (socket) => {
    socket.destroy()
    throw Object.assign(new Error('the handler’s own'), { code: 'EMFILE' })
  })
  const peer = connect(path)
  await once(peer, 'connect')
  t.throws(() => readable[0]?.(), { message: 'the handler’s own' })
  t.equal(readable.length, 1)
  t.doesNotThrow(() => readable[0]?.(), 'nobody waits: EAGAIN')
  await listener.close()
  peer.destroy()
})

const invalid = (message: string) => ({ name: 'OsError', code: 'EINVAL', message })

await t.test('an argument out of its range is EINVAL and says which', async (t) => {
  const vsock = createVsock(addon)
  const asked = (cid: number, port: number, timeoutMs?: number) => vsock.connect({ cid, port }, timeoutMs === undefined ? {} : { timeoutMs })
  await t.rejects(asked(-1, 5), invalid('connect to vsock -1:5: the CID is -1; expected a whole number from 0 to 4294967295'))
  await t.rejects(asked(3, 2 ** 32), invalid('connect to vsock 3:4294967296: the port is 4294967296; expected a whole number from 0 to 4294967295'))
  for (const timeoutMs of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    await t.rejects(asked(3, 5, timeoutMs), invalid(`connect to vsock 3:5: the limit is ${timeoutMs} ms; expected a number above 0, up to 4294967295`))
  }
  await t.rejects(vsock.listen(1.5, () => {}), invalid('listen on vsock port 1.5: the port is 1.5; expected a whole number from 0 to 4294967295'))
})

await t.test('an addon that does not load rejects, as every other failure does', async (t) => {
  const vsock = createVsock(() => {
    throw new OsError('ENOENT', 'open', 'not built')
  })
  let dialled: Promise<unknown> = Promise.resolve()
  t.doesNotThrow(() => (dialled = vsock.connect({ cid: 3, port: 1 })))
  await t.rejects(dialled, { message: 'not built' })
  await t.rejects(vsock.listen(1, () => {}), { message: 'not built' })
})

await t.test('a peer that goes away mid-write fails the write', async (t) => {
  const { socket, peer } = await connected(t)
  const failed = once(socket, 'error')
  socket.write(pattern(8 * 1024 * 1024))
  peer.destroy()
  const [error] = await failed
  t.match(error, { code: /EPIPE|ECONNRESET/ })
})
