/** Bytes, windows, outputs and inputs of the agent, on real pipes of Node's. */
import { closeSync, writeSync } from 'node:fs'
import { mock } from 'node:test'
import { PassThrough } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { loadGuestRpc } from '#guest/rpc.ts'
import { DataEncoder, withEncodedData } from '#guest/services/encoded-data.ts'
import { Input } from '#guest/streams/input.ts'
import { Output, type OutputPolicy } from '#guest/streams/output.ts'
import { StreamRegistry, WAITING_STREAMS_MAX } from '#guest/streams/registry.ts'
import { CREDIT_BYTES_MAX, SendWindow, WINDOW_BYTES } from '#guest/streams/window.ts'
import { ByteQueue } from '#shared/bytes.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { random } from '#test/support/random.ts'
import { settled } from '#test/support/settled.ts'

// The timers under test keep no process alive by themselves.
const alive = setInterval(() => {}, 1000)
t.teardown(() => clearInterval(alive))

t.test('a byte queue gives back what it got, however it is cut', async (t) => {
  const next = random(42)
  const queue = new ByteQueue()
  const put: Buffer[] = []
  const got: Buffer[] = []
  let inside = 0
  for (let step = 0; step < 4000; step++) {
    if (next() % 2 === 0) {
      const bytes = Buffer.alloc(next() % (next() % 7 === 0 ? 40_000 : 50))
      for (let at = 0; at < bytes.length; at++) bytes[at] = (step + at) & 0xff
      put.push(Buffer.from(bytes))
      queue.append(bytes)
      inside += bytes.length
    } else {
      const piece = queue.take(next() % 5000)
      got.push(piece)
      inside -= piece.length
    }
    if (queue.length !== inside) t.fail(`length ${queue.length}, expected ${inside}`)
  }
  while (queue.length > 0) got.push(queue.take(Number.MAX_SAFE_INTEGER))
  t.ok(Buffer.concat(got).equals(Buffer.concat(put)))
  t.equal(queue.take(10).length, 0, 'an empty queue gives nothing')
})

t.test('pieces that were taken do not change when the queue goes on filling', async (t) => {
  const queue = new ByteQueue()
  queue.append(Buffer.from('abc'))
  const taken = queue.take(2)
  queue.append(Buffer.from('defghij'))
  t.equal(taken.toString(), 'ab')
  t.equal(queue.take(100).toString(), 'cdefghij')
})

t.test('a million single bytes cost about as much as they are', async (t) => {
  const queue = new ByteQueue()
  const before = process.memoryUsage().heapUsed
  for (let at = 0; at < 1_000_000; at++) queue.append(Buffer.of(at & 0xff))
  const pieces = process.memoryUsage().heapUsed - before
  t.equal(queue.length, 1_000_000)
  let count = 0
  for (; queue.length > 0; count++) queue.take(Number.MAX_SAFE_INTEGER)
  t.ok(count <= 32, `${count} pieces hold them (heap grew by ${pieces} bytes)`)
})

t.test('what a reader certainly has, by its window updates', async (t) => {
  const window = new SendWindow(30_000)
  t.equal(window.credit, 0)
  window.grant(WINDOW_BYTES)
  window.send(Buffer.alloc(100), 0)
  t.equal(window.unconfirmed, 100, 'the first update says nothing')
  window.grant(WINDOW_BYTES)
  t.equal(window.unconfirmed, 100, 'the second proves one byte read, which may not be written')
  t.equal(window.credit, 2 * WINDOW_BYTES - 100)
  window.send(Buffer.alloc(2 * WINDOW_BYTES - 100), 1)
  t.equal(window.credit, 0)
  window.grant(WINDOW_BYTES)
  t.equal(window.unconfirmed, 2 * WINDOW_BYTES - 1, 'after U updates more than 65536·(U−2) were read, and of those all but the last 65536 written')
  for (let update = 3; update < 10; update++) {
    window.send(Buffer.alloc(WINDOW_BYTES), update)
    t.equal(window.unconfirmed, 3 * WINDOW_BYTES - 1, 'never more than this is kept')
    window.grant(WINDOW_BYTES)
  }
})

t.test('what a reader has in its hand when its update leaves is kept', async (t) => {
  const KiB = 1024
  const window = new SendWindow(30_000)
  window.grant(WINDOW_BYTES)
  window.send(Buffer.alloc(20 * KiB), 0)
  // 44 KiB are left of its window.
  window.grant(WINDOW_BYTES)
  window.send(Buffer.alloc(32 * KiB), 0)
  window.send(Buffer.alloc(32 * KiB), 0)
  // It reads the last of them: again 44 KiB are left, and the update leaves while those 32 KiB are in io.Copy's hand.
  window.grant(WINDOW_BYTES)
  const log = 20 * KiB
  t.ok(window.unconfirmed >= 32 * KiB + log, `${window.unconfirmed} bytes are kept: what io.Copy and the log may have`)
})

t.test('a peer that grants nonsense is refused', async (t) => {
  const window = new SendWindow(30_000)
  for (const bytes of [0, -1, 1.5, Number.NaN, CREDIT_BYTES_MAX + 1]) {
    t.throws(() => window.grant(bytes), { code: 'INVALID_ARGUMENT' }, `${bytes}`)
  }
  window.grant(CREDIT_BYTES_MAX)
  t.throws(() => window.grant(1), { code: 'INVALID_ARGUMENT' }, 'more than any window in all')
})

t.test('what was sent long before a reader went counts as read', async (t) => {
  const window = new SendWindow(30_000)
  window.grant(WINDOW_BYTES)
  window.send(Buffer.from('old'), 0)
  window.send(Buffer.from('older than 30 s by the end'), 5000)
  window.send(Buffer.from('young'), 40_000)
  t.equal(window.takeUnconfirmed(undefined).length, 34, 'unless nobody knows when that was')
  t.equal(window.takeUnconfirmed(50_000).take(100).toString(), 'young')
})

t.test('a byte every second of a day, and the last half a minute of them is uncertain', async (t) => {
  const window = new SendWindow(30_000)
  window.grant(WINDOW_BYTES)
  const day = 60_000
  for (let second = 0; second < day; second++) window.send(Buffer.from('x'), second * 1000)
  t.equal(window.takeUnconfirmed(day * 1000).length, 30)
})

const policy: OutputPolicy = { bufferBytesMax: 64 * 1024, settledMs: 30_000, inheritedMs: 20, stalledMs: 40, abandonedMs: undefined }

function attach(output: Output) {
  const controller = new AbortController()
  return { reader: output.attach(controller.signal), controller }
}

t.test('delivered means: ended, sent, and confirmed by the reader', async (t) => {
  const source = new PassThrough()
  const output = new Output(source, { ...policy, stalledMs: 60_000 })
  const { reader } = attach(output)
  reader.grant(WINDOW_BYTES)
  source.end('hello')
  t.equal((await reader.next())?.toString(), 'hello')
  t.equal(await reader.next(), undefined)
  output.processExited()
  t.equal(await settled(output.delivered), false, 'sent is not read')
  reader.confirm()
  await output.delivered
})

t.test('no byte without credit, and no more than 32 KiB at once', async (t) => {
  const source = new PassThrough()
  const output = new Output(source, policy)
  const { reader } = attach(output)
  source.write(Buffer.alloc(40_000))
  const first = reader.next()
  t.equal(await settled(first), false)
  reader.grant(10)
  t.equal((await first)?.length, 10)
  reader.grant(WINDOW_BYTES)
  t.equal((await reader.next())?.length, 32_768)
  output.discard()
  await output.delivered
})

t.test('a full buffer stops reading the source', async (t) => {
  const source = new PassThrough({ highWaterMark: 1024 })
  const output = new Output(source, policy)
  let written = 0
  while (source.write(Buffer.alloc(1024)) || (await settled(Promise.resolve()))) {
    written += 1024
    if (written > 10 * policy.bufferBytesMax) break
    if (output.buffered >= policy.bufferBytesMax) break
  }
  for (let turns = 0; turns < 20; turns++) await turn()
  t.ok(source.isPaused())
  t.ok(output.buffered <= policy.bufferBytesMax + 64 * 1024)
  const { reader } = attach(output)
  reader.grant(WINDOW_BYTES)
  reader.grant(WINDOW_BYTES)
  for (let taken = 0; taken < WINDOW_BYTES; ) taken += (await reader.next())?.length ?? 0
  t.notOk(source.isPaused(), 'and starts again when there is room')
  output.discard()
})

t.test('without a reader an ended process is waited for, unless nothing is left to read', async (t) => {
  const silent = new PassThrough()
  const quiet = new Output(silent, policy)
  silent.end()
  quiet.processExited()
  await quiet.delivered
  const source = new PassThrough()
  const output = new Output(source, { ...policy, stalledMs: 1 })
  source.end('last words')
  output.processExited()
  await new Promise((wake) => setTimeout(wake, 100))
  t.equal(await settled(output.delivered), false, 'for ever: containerd comes back')
  const forgotten = new PassThrough()
  const exec = new Output(forgotten, { ...policy, abandonedMs: 10 })
  forgotten.end('nobody asks for this again')
  exec.processExited()
  await exec.delivered
  output.discard()
  await output.delivered
})

t.test('a reader that makes no progress is not waited for beyond the limit', async (t) => {
  const source = new PassThrough()
  const output = new Output(source, policy)
  const { reader } = attach(output)
  reader.grant(1)
  source.end('stuck')
  t.equal((await reader.next())?.toString(), 's')
  output.processExited()
  await output.delivered
  t.pass()
})

t.test('a reader that is slow, and makes progress, is waited for', async (t) => {
  let nowMs = 1000
  const clock = mock.method(performance, 'now', () => nowMs)
  t.teardown(() => clock.mock.restore())
  const source = new PassThrough()
  const output = new Output(source, policy)
  const { reader } = attach(output)
  source.end('a long text')
  output.processExited()
  for (let byte = 0; byte < 5; byte++) {
    nowMs += policy.stalledMs - 1
    reader.grant(1)
    t.equal((await reader.next())?.length, 1)
    await new Promise((wake) => setTimeout(wake, 20))
    t.equal(await settled(output.delivered), false)
  }
  nowMs += policy.stalledMs
  await output.delivered
})

t.test('what a reader whose end was not heard may not have is kept for the next, however late it comes', async (t) => {
  const source = new PassThrough()
  const output = new Output(source, { ...policy, settledMs: 0 })
  const now = performance.now.bind(performance)
  let laterMs = 0
  const clock = mock.method(performance, 'now', () => now() + laterMs)
  t.teardown(() => clock.mock.restore())
  const lost = attach(output)
  lost.reader.grant(WINDOW_BYTES)
  source.write('one ')
  t.equal((await lost.reader.next())?.toString(), 'one ')
  source.end('two')
  t.equal((await lost.reader.next())?.toString(), 'two')
  output.processExited()
  await output.delivered
  laterMs = 60_000
  const { reader } = attach(output)
  reader.grant(WINDOW_BYTES)
  t.equal((await reader.next())?.toString(), 'one two')
  t.equal(await reader.next(), undefined)
  reader.confirm()
  const third = attach(output)
  third.reader.grant(WINDOW_BYTES)
  t.equal(await third.reader.next(), undefined, 'what one has confirmed nobody gets again')
})

t.test('a pipe that others still hold is not waited for beyond the limit', async (t) => {
  const source = new PassThrough()
  const output = new Output(source, { ...policy, stalledMs: 60_000 })
  const { reader } = attach(output)
  reader.grant(WINDOW_BYTES)
  source.write('mine')
  t.equal((await reader.next())?.toString(), 'mine')
  output.processExited()
  t.equal(await reader.next(), undefined)
})

t.test('an agent that was not scheduled for a while reads what is there before it gives up', async (t) => {
  const { descriptors } = createNativeOs()
  const { readFd, writeFd } = descriptors.pipe()
  const output = new Output(descriptors.stream(readFd, 'read'), { ...policy, stalledMs: 60_000 })
  const { reader } = attach(output)
  reader.grant(WINDOW_BYTES)
  await turn()
  output.processExited()
  writeSync(writeFd, 'last words')
  for (const until = performance.now() + 10 * policy.inheritedMs; performance.now() < until; );
  t.equal((await reader.next())?.toString(), 'last words')
  t.equal(await reader.next(), undefined)
  closeSync(writeFd)
})

t.test('aborted and replaced readers say so', async (t) => {
  const output = new Output(new PassThrough(), policy)
  const first = attach(output)
  const waiting = first.reader.next()
  attach(output)
  await t.rejects(waiting, { code: 'ABORTED' })
  const third = attach(output)
  const next = third.reader.next()
  third.controller.abort(new Error('the connection is over'))
  await t.rejects(next, { message: 'the connection is over' })
  third.reader.detach()
  third.reader.detach()
  output.discard()
})

t.test('input: credit for what was taken, the end at the half-close', async (t) => {
  const sink = new PassThrough({ highWaterMark: 100_000 })
  const input = new Input(sink, { overtakenMs: 10, abandonedMs: undefined }, false)
  const writer = input.attach(new AbortController().signal)
  t.equal(await writer.nextCredit(), WINDOW_BYTES)
  await writer.write(Buffer.alloc(40_000))
  t.equal(await writer.nextCredit(), 40_000)
  await t.rejects(writer.write(Buffer.alloc(2 * WINDOW_BYTES)), { code: 'RESOURCE_EXHAUSTED' })
  writer.end()
  t.equal(await writer.nextCredit(), undefined)
  t.equal(input.ended, true)
  t.equal(sink.writableEnded, true)
})

t.test('input: a full pipe gives no credit; the end of its reader does', async (t) => {
  const sink = new PassThrough({ highWaterMark: 16 })
  const input = new Input(sink, { overtakenMs: 10, abandonedMs: undefined }, false)
  const writer = input.attach(new AbortController().signal)
  await writer.nextCredit()
  const write = writer.write(Buffer.alloc(WINDOW_BYTES))
  const credit = writer.nextCredit()
  t.equal(await settled(credit), false)
  input.discard()
  await write
  t.equal(await credit, WINDOW_BYTES, 'a writer is never left waiting: what nobody will read is taken and dropped')
  await writer.write(Buffer.alloc(WINDOW_BYTES))
  await input.discarded
  writer.end()
  t.equal(await writer.nextCredit(), undefined)
})

t.test('input: a writer that comes takes it over from the one before, whose end is not the input\'s', async (t) => {
  const sink = new PassThrough()
  const input = new Input(sink, { overtakenMs: 10, abandonedMs: 10 }, false)
  const before = input.attach(new AbortController().signal)
  await before.nextCredit()
  const waiting = before.nextCredit()
  const controller = new AbortController()
  const writer = input.attach(controller.signal)
  await t.rejects(waiting, { code: 'ABORTED' })
  await t.rejects(before.write(Buffer.from('x')), { code: 'ABORTED' })
  before.end()
  before.detach()
  await new Promise((wake) => setTimeout(wake, 30))
  t.equal(input.ended, false)
  t.equal(await writer.nextCredit(), WINDOW_BYTES)
  await writer.write(Buffer.from('mine'))
  t.equal(sink.read()?.toString(), 'mine')
  const aborted = writer.nextCredit()
  controller.abort(new Error('the connection is over'))
  await t.rejects(aborted, { message: 'the connection is over' })
  input.discard()
})

t.test('input: CloseIO waits for the stream, a lost exec input ends, a terminal never does', async (t) => {
  const overtaken = new PassThrough({ highWaterMark: 1000 })
  const input = new Input(overtaken, { overtakenMs: 20, abandonedMs: undefined }, false)
  const writer = input.attach(new AbortController().signal)
  await writer.nextCredit()
  input.closeSoon()
  await writer.write(Buffer.from('late'))
  t.equal(overtaken.read()?.toString(), 'late')
  while (!input.ended) await new Promise((wake) => setTimeout(wake, 5))
  t.equal(overtaken.writableEnded, true, 'and then it ends')
  const alone = new Input(new PassThrough(), { overtakenMs: 60_000, abandonedMs: undefined }, false)
  alone.closeSoon()
  t.equal(alone.ended, true, 'at once without a writer')
  const lost = new PassThrough()
  const exec = new Input(lost, { overtakenMs: 10, abandonedMs: 10 }, false)
  exec.attach(new AbortController().signal).detach()
  while (!exec.ended) await new Promise((wake) => setTimeout(wake, 5))
  t.equal(lost.writableEnded, true)
  const pty = new PassThrough()
  const terminal = new Input(pty, { overtakenMs: 10, abandonedMs: undefined }, true)
  terminal.end()
  t.equal(pty.writableEnded, false)
})

t.test('data encoded by hand is what the definition makes', async (t) => {
  const rpc = loadGuestRpc()
  const { Stream } = rpc.streaming.methods
  const encoder = new DataEncoder()
  for (const length of [1, 2, 100, 121, 122, 127, 128, 129, 16_000, 16_383, 16_384, 32_767, 32_768]) {
    const data = Buffer.alloc(length, length & 0xff)
    const generated = Stream.responseSerialize(rpc.any.pack('containerd.types.transfer.Data', { data }))
    const made = withEncodedData(rpc.streaming).methods.Stream.responseSerialize(encoder.encode(data))
    t.ok(made.equals(generated), `${length} bytes`)
  }
  const other = rpc.any.pack('google.protobuf.Empty', {})
  t.ok(withEncodedData(rpc.streaming).methods.Stream.responseSerialize(other).equals(Stream.responseSerialize(other)))
})

t.test('streams wait for their process within a limit', async (t) => {
  const registry = new StreamRegistry()
  const controller = new AbortController()
  const output = new Output(new PassThrough(), policy)
  const endpoint = { kind: 'output', output } as const
  const early = registry.find('a', controller.signal)
  const binding = registry.bind('a', endpoint)
  t.equal(await early, endpoint)
  t.equal(await registry.find('a', controller.signal), endpoint)
  t.throws(() => registry.bind('a', endpoint), { code: 'ALREADY_EXISTS' })
  binding[Symbol.dispose]()
  t.equal(registry.has('a'), false)
  const many = Array.from({ length: WAITING_STREAMS_MAX }, (_, index) => registry.find(`n${index}`, controller.signal))
  await t.rejects(registry.find('one more', controller.signal), { code: 'RESOURCE_EXHAUSTED' })
  controller.abort(new Error('gone'))
  await Promise.allSettled(many)
  t.equal(registry.waiting, 0)
  output.discard()
})
