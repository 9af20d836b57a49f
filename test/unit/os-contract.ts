/** What every keeper of shared/os/contract.ts must do, the fake included. */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import type { Test } from 'tap'
import { CID_ANY, type Os } from '#shared/os/contract.ts'

/** The part of the world that a test plays for one implementation. */
export interface OsWorld {
  readonly os: Os
  /** Plays the OCI runtime: a terminal on whose slave `output` is printed, sent to `path`. */
  readonly sendTerminal: (path: string, output: string) => Promise<void>
  /** A living process and the way to end it. */
  readonly startProcess: () => Promise<{ readonly pid: number; end(): void }>
  /** Mounts change nothing outside the test. */
  readonly mayMount: boolean
  /** A target that exists, for mounts. */
  readonly mountTarget: string
  /** The CID at which this machine's own listeners are reached; absent where there is no usable vsock. */
  readonly vsockCid?: number
  /** A network namespace whose localhost nobody has, and a way to dial it from inside; absent where none can be had. */
  readonly localhost?: LocalhostWorld
}

export interface LocalhostWorld {
  readonly netnsPath: string
  connect(port: number, host: string): Promise<Socket>
}

export async function osContract(t: Test, world: OsWorld): Promise<void> {
  const { os } = world
  await t.test('pipes', (t) => pipes(t, os))
  await t.test('terminals', (t) => terminals(t, world))
  await t.test('processes', (t) => processes(t, world))
  await t.test('children', (t) => children(t, os))
  if (world.mayMount) await t.test('mounts', (t) => mounts(t, world))
  const cid = world.vsockCid
  if (cid !== undefined) await t.test('vsock', (t) => vsock(t, os, cid))
  const { localhost } = world
  if (localhost !== undefined) await t.test('localhost', (t) => localhostContract(t, os, localhost))
}

async function pipes(t: Test, os: Os): Promise<void> {
  await t.test('bytes arrive in order and the end is seen', async (t) => {
    const { readFd, writeFd } = os.descriptors.pipe()
    const sent = pattern(1_000_003)
    const writer = os.descriptors.stream(writeFd, 'write')
    const received = buffer(os.descriptors.stream(readFd, 'read'))
    writer.end(sent)
    t.ok(sent.equals(await received))
  })
  await t.test('writing to a pipe nobody reads fails with EPIPE', async (t) => {
    const { readFd, writeFd } = os.descriptors.pipe()
    os.descriptors.close(readFd)
    const writer = os.descriptors.stream(writeFd, 'write')
    writer.write('lost')
    const [error] = await once(writer, 'error')
    t.match(error, { code: 'EPIPE' })
  })
  await t.test('a full pipe holds the writer back', async (t) => {
    const { readFd, writeFd } = os.descriptors.pipe()
    const writer = os.descriptors.stream(writeFd, 'write')
    const sent = pattern(2_000_000)
    t.equal(writer.write(sent), false)
    const received = buffer(os.descriptors.stream(readFd, 'read'))
    await once(writer, 'drain')
    writer.end()
    t.ok(sent.equals(await received))
  })
}

async function terminals(t: Test, { os, sendTerminal }: OsWorld): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-console-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'console.sock')

  await t.test('the master arrives, its output is read, and the hang-up is its end', async (t) => {
    await using listener = await os.terminals.listenConsole(path)
    const [master] = await Promise.all([listener.receive(), sendTerminal(path, 'hello from the slave\n')])
    os.terminals.resize(master, 132, 50)
    const output = await buffer(os.descriptors.stream(master, 'duplex'))
    t.match(output.toString(), /^hello from the slave\r?\n$/)
  })
  await t.test('a hang-up is noticed without a reader', async (t) => {
    await using listener = await os.terminals.listenConsole(path)
    const [master] = await Promise.all([listener.receive(), sendTerminal(path, '')])
    await once(os.descriptors.stream(master, 'duplex'), 'close')
    t.pass('closed')
  })
  await t.test('the path is free again afterwards', async (t) => {
    await using listener = await os.terminals.listenConsole(path)
    t.ok(listener)
    await t.rejects(os.terminals.listenConsole(path), { code: 'EADDRINUSE' })
  })
  await t.test('waiting can be aborted', async (t) => {
    await using listener = await os.terminals.listenConsole(path)
    const abort = new AbortController()
    const waiting = listener.receive(abort.signal)
    abort.abort(new Error('enough'))
    await t.rejects(waiting, { message: 'enough' })
  })
  await t.test('disposal ends the wait', async (t) => {
    const listener = await os.terminals.listenConsole(path)
    const waiting = listener.receive()
    await listener[Symbol.asyncDispose]()
    await t.rejects(waiting, { message: /was closed/ })
  })
}

async function children(t: Test, os: Os): Promise<void> {
  const run = (script: string, env: Record<string, string> = {}) => os.processes.spawn({ file: '/bin/sh', args: ['-c', script], env, stdio: undefined })
  await t.test('a child’s end is told', async (t) => {
    t.same(await run('exit 7').ended, { exitCode: 7, signal: undefined })
    t.same(await run('kill -TERM $$').ended, { exitCode: undefined, signal: 'SIGTERM' })
    const killed = run('exec sleep 60')
    killed.kill()
    t.same(await killed.ended, { exitCode: undefined, signal: 'SIGKILL' })
    killed.kill()
    t.throws(() => process.kill(killed.pid, 0), { code: 'ESRCH' }, 'it has been reaped')
    const many = await Promise.all(Array.from({ length: 50 }, (_, index) => run(`exit ${index}`).ended))
    t.same(many.map(({ exitCode }) => exitCode), Array.from({ length: 50 }, (_, index) => index))
  })
  await t.test('it inherits what is named and nothing else', async (t) => {
    const [input, output, errors, stray] = [os.descriptors.pipe(), os.descriptors.pipe(), os.descriptors.pipe(), os.descriptors.pipe()]
    const stdio = { stdin: input.readFd, stdout: output.writeFd, stderr: errors.writeFd }
    // 255: the script's own descriptor in some shells; the pipes of this test are far below.
    const script = 'cat; env >&2; for fd in /proc/self/fd/*; do echo "${fd##*/}"; done'
    const { ended } = os.processes.spawn({ file: '/bin/sh', args: ['-c', script], env: { A: '1', B: 'x y' }, stdio })
    for (const fd of Object.values(stdio)) os.descriptors.close(fd)
    const [out, err] = [output, errors].map(({ readFd }) => buffer(os.descriptors.stream(readFd, 'read')))
    os.descriptors.stream(input.writeFd, 'write').end('typed\n')
    const lines = String(await out).split('\n')
    t.equal(lines[0], 'typed')
    t.same(lines.filter((line) => [stray.readFd, stray.writeFd].map(String).includes(line)), [])
    t.match(String(await err), /^A=1$/m)
    t.match(String(await err), /^B=x y$/m)
    t.notMatch(String(await err), /^HOME=/m)
    t.same(await ended, { exitCode: 0, signal: undefined })
    for (const fd of [stray.readFd, stray.writeFd]) os.descriptors.close(fd)
  })
  await t.test('without descriptors it has /dev/null', async (t) => {
    t.same(await run('[ "$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 | sort -u)" = /dev/null ]', { PATH: '/usr/bin:/bin' }).ended, { exitCode: 0, signal: undefined })
  })
  t.throws(() => os.processes.spawn({ file: '/no/such/program', args: [], env: {}, stdio: undefined }), { code: 'ENOENT', message: /start \/no\/such\/program/ })
}

async function processes(t: Test, { os, startProcess }: OsWorld): Promise<void> {
  await t.test('an end is reported once', async (t) => {
    const process = await startProcess()
    let calls = 0
    const ended = new Promise<void>((resolve) => {
      os.processes.watch(process.pid, () => {
        calls++
        resolve()
      })
    })
    process.end()
    await ended
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(calls, 1)
  })
  await t.test('a disposed watch keeps silent', async (t) => {
    const process = await startProcess()
    let silent = true
    const heard = new Promise<void>((resolve) => void os.processes.watch(process.pid, resolve))
    os.processes.watch(process.pid, () => (silent = false))[Symbol.dispose]()
    process.end()
    await heard
    t.ok(silent)
  })
  t.throws(() => os.processes.watch(2 ** 22 + 1, () => {}), { code: 'ESRCH', syscall: 'pidfd_open' })
  const first = os.processes.bootTimeNanos()
  t.ok(os.processes.bootTimeNanos() >= first && first > 0n, 'the boot clock does not run backwards')
}

async function mounts(t: Test, { os, mountTarget }: OsWorld): Promise<void> {
  os.mounts.mount({ source: 'tmpfs', target: mountTarget, type: 'tmpfs', options: ['nosuid', 'size=64k'] })
  os.mounts.mount({ source: mountTarget, target: mountTarget, type: '', options: ['rbind', 'ro', 'rprivate'] })
  os.mounts.unmount(mountTarget)
  os.mounts.unmount(mountTarget, true)
  t.throws(() => os.mounts.unmount(mountTarget), { code: 'EINVAL' }, 'nothing is mounted any more')
  const bad = { source: '/', target: mountTarget, type: '', options: ['bind', 'size=1'] }
  t.throws(() => os.mounts.mount(bad), { code: 'EINVAL', message: /size=1/ })
}

async function vsock(t: Test, os: Os, cid: number): Promise<void> {
  const port = 20_000
  t.type(os.vsock.localCid(), 'number')
  await t.rejects(os.vsock.connect({ cid, port }), { code: 'ECONNRESET' }, 'nobody listens')
  await t.rejects(os.vsock.connect({ cid, port }, { signal: AbortSignal.abort(new Error('no')) }), { message: 'no' })

  const listener = await os.vsock.listen(port, (socket) => socket.pipe(socket))
  t.same(listener.address, { cid: CID_ANY, port })
  await t.rejects(os.vsock.listen(port, () => {}), { code: 'EADDRINUSE' })
  const socket = await os.vsock.connect({ cid, port })
  await listener.close()
  await t.rejects(os.vsock.connect({ cid, port }), { code: 'ECONNRESET' }, 'closed to new connections')

  const sent = pattern(4 * 1024 * 1024 + 7)
  socket.write(sent)
  t.ok(sent.equals(await take(socket, sent.length)), 'an open connection outlives its listener')

  await t.test('end() writes everything and closes, whatever the peer does', async (t) => {
    const accepted = Promise.withResolvers<Socket>()
    await using second = await os.vsock.listen(port + 1, (peer) => accepted.resolve(peer))
    const ending = await os.vsock.connect({ cid, port: second.address.port })
    ending.end(sent)
    const received = buffer(await accepted.promise)
    await once(ending, 'close')
    t.ok(sent.equals(await received))
  })
  socket.destroy()
}

/** The next `length` bytes. */
async function take(socket: Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let left = length
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    if (!Buffer.isBuffer(chunk)) throw new Error('the socket reads text')
    chunks.push(chunk)
    left -= chunk.length
    if (left <= 0) break
  }
  return Buffer.concat(chunks)
}

/** Bytes that repeat at no power of two, so that a lost or swapped block shows. */
export function pattern(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length)
  for (let i = 0, x = 1; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0
    bytes[i] = x >>> 16
  }
  return bytes
}

export async function localhostContract(t: Test, os: Os, world: LocalhostWorld): Promise<void> {
  const { netnsPath } = world
  await t.test('every port of both families arrives, and says which', async (t) => {
    using _ = await os.localhost.listen(netnsPath, (socket, port) => socket.end(`port ${port}`))
    for (const host of ['127.0.0.1', '127.1.2.3', '::1']) {
      for (const port of [1, 80, 65_535]) t.equal((await buffer(await world.connect(port, host))).toString(), `port ${port}`, `${host}:${port}`)
    }
  })
  await t.test('a connection half closed still answers', async (t) => {
    using _ = await os.localhost.listen(netnsPath, (socket) => {
      void buffer(socket).then((all) => socket.end(all))
    })
    const socket = await world.connect(80, '127.0.0.1')
    socket.end('to the end')
    t.equal((await buffer(socket)).toString(), 'to the end')
  })
  await t.test('what comes before anyone reads is kept', async (t) => {
    const { promise: arrived, resolve } = Promise.withResolvers<Socket>()
    using _ = await os.localhost.listen(netnsPath, resolve)
    const client = await world.connect(80, '127.0.0.1')
    client.end('early')
    const socket = await arrived
    t.equal((await buffer(socket)).toString(), 'early')
    socket.end()
    await buffer(client)
  })
  await t.test('afterwards nobody listens, and it can be taken again', async (t) => {
    const listener = await os.localhost.listen(netnsPath, (socket) => socket.end())
    listener.close()
    listener.close()
    await t.rejects(world.connect(80, '127.0.0.1'), { code: 'ECONNREFUSED' })
    using _ = await os.localhost.listen(netnsPath, (socket) => socket.end('again'))
    t.equal((await buffer(await world.connect(80, '127.0.0.1'))).toString(), 'again')
  })
}
