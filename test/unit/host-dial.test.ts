import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { dialHybrid } from '#host/link/dial.ts'
import { hangUp } from '#host/link/hang-up.ts'

async function serving(t: Test, onLine: (line: string, socket: Socket) => unknown): Promise<string> {
  const dir = await mkdtemp('/tmp/dial-')
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('data', (chunk) => void onLine(chunk.toString(), socket))
  })
  const path = join(dir, 'v.sock')
  await new Promise<void>((resolve) => server.listen(path, resolve))
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await rm(dir, { recursive: true })
  })
  return path
}

const forever = new AbortController().signal

t.test('asks in one line and hands on what follows the answer', async (t) => {
  const path = await serving(t, async (line, socket) => {
    t.equal(line, 'CONNECT 1024\n')
    socket.write('O')
    // Both ends are of this process, whose loop has read it after some turns.
    for (let turn = 0; turn < 10; turn++) await nextTurn()
    socket.write('K 1073741824\nhello')
  })
  const socket = await dialHybrid(path, 1024, forever)
  t.teardown(() => socket.destroy())
  // The socket comes paused, so that nothing is lost before its owner listens.
  const first = once(socket, 'data')
  socket.resume()
  const [chunk] = await first
  t.equal(String(chunk), 'hello')
})

for (const [name, answer] of [
  ['a refusal', 'ERR\n'],
  ['an endless line', 'x'.repeat(64)],
  ['OK without a number', 'OK \n'],
] as const)
  t.test(`${name} is an error that shows it`, async (t) => {
    const path = await serving(t, (_, socket) => socket.write(answer))
    await t.rejects(dialHybrid(path, 7, forever), { code: 'UNAVAILABLE', message: /port 7 .*expected "OK", got/ })
  })

t.test('an end without an answer says that nothing listens', async (t) => {
  const path = await serving(t, (_, socket) => socket.end())
  await t.rejects(dialHybrid(path, 1024, forever), { code: 'UNAVAILABLE', message: /nothing listens/ })
})

t.test('no socket at all', async (t) => {
  await t.rejects(dialHybrid('/tmp/no-such-vsock', 1024, forever), { code: 'UNAVAILABLE', message: /ENOENT/ })
})

t.test('an abort while waiting passes its reason on, and hangs up only when the answer has come', async (t) => {
  const abort = new AbortController()
  const { promise: dialled, resolve } = Promise.withResolvers<Socket>()
  const path = await serving(t, (_, socket) => {
    resolve(socket.pause())
    abort.abort(new Error('enough'))
  })
  await t.rejects(dialHybrid(path, 1024, abort.signal), { message: 'enough' })
  const device = await dialled
  let ended = false
  device.on('end', () => (ended = true)).resume()
  for (let i = 0; i < 20; i++) await new Promise((turn) => setImmediate(turn))
  t.notOk(ended, 'it waits')
  device.write('OK 1\nand more')
  await once(device, 'end')
  t.pass('it has hung up')
})

t.test('an abort before there is a connection asks all the same, and then hangs up', async (t) => {
  const abort = new AbortController()
  const { promise: dialled, resolve } = Promise.withResolvers<Socket>()
  const path = await serving(t, (line, socket) => {
    t.equal(line, 'CONNECT 1024\n')
    resolve(socket)
  })
  const dialling = dialHybrid(path, 1024, abort.signal)
  abort.abort(new Error('enough'))
  await t.rejects(dialling, { message: 'enough' })
  const device = await dialled
  device.write('OK 1\n')
  await once(device.resume(), 'end')
  t.pass('it has hung up')
})

t.test('hanging up reads to the end: the kernel would reset a connection that was closed with bytes unread', async (t) => {
  const bytes = 1024 * 1024
  const path = await serving(t, (_, socket) => {
    socket.write('OK 1\n')
    socket.write(Buffer.alloc(bytes))
  })
  const socket = await dialHybrid(path, 1024, forever)
  hangUp(socket)
  hangUp(socket)
  await once(socket, 'close')
  t.equal(socket.bytesRead, bytes + 'OK 1\n'.length)
  t.notOk(socket.errored)
})
