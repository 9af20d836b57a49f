/** The client when a peer goes away, does not read or sends too much, and when it has too much to send. */
import { once } from 'node:events'
import net from 'node:net'
import { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { explain } from '#shared/errors.ts'
import { TtrpcClient, TtrpcServer, type CallReport } from '#shared/ttrpc/index.ts'
import { socketFolder } from '../peer-go/go.ts'
import { peerHandlers, peerService } from '../peer-go/service.ts'
import { answer, collect, data, echo, failure, half, text, two, values } from '../support/ttrpc-calls.ts'
import { bytesValue, envelopes, frame, rawServer, socketPair } from '../support/ttrpc-raw.ts'

t.test('a peer that dies', async (t) => {
  using link = await rawServer()
  const { calls, peer, client } = link
  const unary = failure(calls.Echo({}))
  const stream = collect(calls.Count({ value: 1 }))
  const ignored = [calls.Echo({}), calls.Count({ value: 1 }), calls.Sum(values(1))]
  void calls.Count({ value: 1 })[Symbol.asyncIterator]().next()
  await peer.request()
  const { id } = await peer.request()
  peer.socket.end(Buffer.concat([frame(id, 3, 0, two), frame(1, 2, 0, Buffer.alloc(4097)).subarray(0, 510)]))

  const where = 'after 500 of the 4097 bytes of a Response on stream 1'
  t.match(await client.closed, { code: 'UNAVAILABLE', message: `the peer closed the connection, ${where}` })
  const lost = await unary
  t.match(lost, { code: 'UNAVAILABLE', message: '/kuasar.test.v1.Peer/Echo: the connection is over' })
  t.match(explain(lost), where, 'the cause says where it was cut')
  t.match(await stream, { values: ['2'], error: { code: 'UNAVAILABLE' } }, 'what came before can be read')
  t.equal(ignored.length, 3, 'calls nobody waits for end no process')
  await sleep(1)
  t.match(await failure(calls.Echo({})), { code: 'UNAVAILABLE' }, 'later calls fail at once')
  t.match((await collect(calls.Count({}))).error, { code: 'UNAVAILABLE' })
})

t.test('a peer that dies between frames, in a header, or before', async (t) => {
  {
    using link = await rawServer()
    link.peer.socket.end()
    t.equal(await link.client.closed, undefined)
    t.match(await failure(link.calls.Echo({})), { code: 'UNAVAILABLE', cause: 'the peer closed it' })
  }
  {
    using link = await rawServer()
    link.peer.socket.end(Buffer.alloc(3))
    t.match(
      await link.client.closed,
      { code: 'UNAVAILABLE', message: "the peer closed the connection, 3 bytes into a frame's header" },
    )
  }
  for (const closed of [false, true]) {
    using pair = await socketPair()
    pair.a.destroy()
    if (closed) await once(pair.a, 'close')
    const client = new TtrpcClient(pair.a)
    t.match(await failure(client.calls(peerService).Echo({})), { code: 'UNAVAILABLE' })
    t.equal(await client.closed, undefined)
  }
})

t.test('limits that are none, of a client and of a server', async (t) => {
  using pair = await socketPair()
  const made = [(options: object) => Reflect.construct(TtrpcClient, [pair.a, options]), (options: object) => Reflect.construct(TtrpcServer, [options])]
  for (const make of made) {
    for (const wrong of [0, -1, Number.NaN, '5']) {
      t.throws(() => make({ writeBytesMax: wrong }), { code: 'INVALID_ARGUMENT', message: `ttrpc limit writeBytesMax is ${wrong}; expected a number of at least 1` })
    }
    t.throws(() => make({ writeByteMax: 1 }), { code: 'INVALID_ARGUMENT', message: /^ttrpc has no option writeByteMax; its limits are sentFrameBytesMax, / })
    t.doesNotThrow(() => make({ writeBytesMax: undefined, onCall: undefined, readShare: undefined }), 'what is undefined has its default')
  }
})

t.test('a socket that does not connect', async (t) => {
  using folder = socketFolder()
  const client = new TtrpcClient(net.connect(folder.path('nobody')))
  const error = await failure(client.calls(peerService).Echo({}))
  t.match(error, { code: 'UNAVAILABLE', message: '/kuasar.test.v1.Peer/Echo: the connection is over' })
  t.match(explain(error), /the connection failed: connect ENOENT/)
  t.match(await client.closed, { code: 'UNAVAILABLE' })
})

t.test('a stream that is read late goes on', async (t) => {
  using link = await rawServer({ streamQueueBytesMax: 1000, streamStallMsMax: 60_000 })
  const { calls, peer } = link
  const messages = calls.Count({ value: 1 })[Symbol.asyncIterator]()
  const { id } = await peer.request()
  peer.send(...Array.from({ length: 10 }, () => data(id)))
  await sleep(20)
  peer.send(data(id))
  for (let i = 0; i < 11; i++) t.same(await messages.next(), { done: false, value: { value: '2' } })
  t.ok(await Promise.all([calls.Echo({}), echo(peer)]))
})

t.test('a stream that ended, read slowly beside others', async (t) => {
  using link = await rawServer({ streamQueueBytesMax: 1000, streamStallMsMax: 60_000 })
  const { calls, peer } = link
  const messages = calls.Count({ value: 1 })[Symbol.asyncIterator]()
  const { id } = await peer.request()
  peer.send(...Array.from({ length: 10 }, () => data(id)), frame(id, 3, half))
  for (let i = 0; i < 10; i++) {
    t.same(await messages.next(), { done: false, value: { value: '2' } })
    t.ok(await Promise.all([calls.Echo({}), echo(peer)]))
  }
  t.match(await messages.next(), { done: true })
})

t.test('a peer that does not read', async (t) => {
  using link = await rawServer({ sendQueueBytesMax: 300_000, sendQueueBytesHigh: 50_000 })
  const { calls, peer } = link
  peer.socket.pause()
  const value = Buffer.alloc(100_000)
  const waiting = Array.from({ length: 10 }, () => failure(calls.Echo({ value }, { timeoutMs: 50 })))
  const codes = (await Promise.all(waiting)).map((error) => error.code)
  t.same(
    new Set(codes),
    new Set(['DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED']),
    'some time out, the rest is refused at once',
  )

  let pulled = 0
  let finished = false
  const endless = async function* (): AsyncGenerator<{ value: number }> {
    try {
      for (;;) yield { value: ++pulled }
    } finally {
      finished = true
    }
  }
  t.match(await failure(calls.Sum(endless(), { timeoutMs: 50 })), { code: 'DEADLINE_EXCEEDED' }, 'so does a stream')
  t.ok(pulled < 10_000, `${pulled} messages were pulled`)
  await sleep(1)
  t.equal(finished || pulled === 0, true, 'the source is told')

  peer.socket.resume()
  const call = calls.Echo({ value: text('after') })
  for (;;) {
    const { id, type, data } = await peer.next()
    if (type === 1 && envelopes.decodeRequest(data).payload.length === 7) {
      peer.send(answer(id, bytesValue(text('after'))))
      break
    }
  }
  t.same(await call, { value: text('after') })
})

async function* nothing(): AsyncGenerator<null> {
  yield null
}

t.test('limits of calls and sizes', async (t) => {
  const reports: CallReport[] = []
  using link = await rawServer({ concurrentCallsMax: 2, sentFrameBytesMax: 1000, onCall: (report) => reports.push(report) })
  const { calls, peer } = link
  const pending = [calls.Echo({}), calls.Echo({})]
  t.match(await failure(calls.Echo({})), { code: 'RESOURCE_EXHAUSTED', message: /2 calls are in flight/ })
  await echo(peer)
  await echo(peer)
  await Promise.all(pending)
  t.match(
    await failure(calls.Echo({ value: Buffer.alloc(1000) })),
    { code: 'RESOURCE_EXHAUSTED', message: /a request of 10\d\d bytes/ },
  )
  for (const wrong of ['Sum', 'Echo'] as const) {
    // @ts-expect-error what a caller without types could pass
    const error = await failure(calls[wrong](wrong === 'Sum' ? nothing() : null))
    t.match(error, { code: 'INTERNAL', message: /could not be encoded/ }, `${wrong} of null`)
  }
  const chat = await collect(calls.Chat(values(Buffer.alloc(1001))))
  t.match(chat.error, { code: 'RESOURCE_EXHAUSTED', message: /a message of 1004 bytes is above the limit of 1000/ })
  t.match(reports.map(({ kind, code }) => `${kind} ${code}`), [
    'unary RESOURCE_EXHAUSTED',
    'unary OK',
    'unary OK',
    'unary RESOURCE_EXHAUSTED',
    'client-stream INTERNAL',
    'unary INTERNAL',
    'bidi RESOURCE_EXHAUSTED',
  ])
})

t.test('a message that is more than a stream may hold', async (t) => {
  using link = await rawServer({ streamQueueBytesMax: 1000 })
  const { calls, peer } = link
  const chat = calls.Chat(values())
  const { id } = await peer.request()
  peer.send(frame(id, 3, 0, Buffer.alloc(2000)))
  await Promise.all([calls.Echo({}), peer.next().then(() => echo(peer))])
  t.match((await collect(chat)).error, { code: 'RESOURCE_EXHAUSTED' })
})

t.test('a stream nobody reads', async (t) => {
  using link = await rawServer({ streamQueueBytesMax: 100_000, streamStallMsMax: 20 })
  const { calls, peer } = link
  const unread = calls.Count({ value: 1 })
  const beside = calls.Echo({})
  const { id } = await peer.request()
  for (let i = 0; i < 1000; i++) peer.send(frame(id, 3, 0, two))
  await sleep(60)
  await echo(peer)
  t.same(await beside, { value: Buffer.alloc(0) })
  t.match((await collect(unread)).error, { code: 'RESOURCE_EXHAUSTED', message: /left \d+ bytes unread/ })
})

/** One end of a pipe that records how much each write hands over, as a writev is one write. */
class Pipe extends Duplex {
  readonly writes: number[] = []
  other: Pipe | undefined

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#pass([chunk], done)
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.#pass(chunks.map(({ chunk }) => chunk), done)
  }

  #pass(chunks: Buffer[], done: () => void): void {
    this.writes.push(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
    setImmediate(() => {
      for (const chunk of chunks) this.other?.push(chunk)
      done()
    })
  }
}

t.test('writes no larger than allowed', async (t) => {
  const [near, far] = [new Pipe(), new Pipe()]
  near.other = far
  far.other = near
  const writeBytesMax = 16 * 1024
  const server = new TtrpcServer({ writeBytesMax }).add(peerService, peerHandlers)
  server.accept(far)
  const client = new TtrpcClient(near, { writeBytesMax })
  const calls = client.calls(peerService)
  const small = Array.from({ length: 500 }, () => 100)
  const sizes = [3, 100, 16_384, 1, 100_000, 15_000, 15_000, 50, 3_000_000, 7, ...small]
  const answers = await Promise.all(sizes.map((size) => calls.Echo({ value: Buffer.alloc(size, 'w') })))
  t.same(answers.map(({ value }) => value.length), sizes)
  for (const { writes } of [near, far]) {
    t.ok(Math.max(...writes) <= writeBytesMax, `${writes.length} writes, the largest of ${Math.max(...writes)} bytes`)
    t.ok(writes.length < 250, 'small frames share a write')
  }
  client.close()
  await server.close()
})
