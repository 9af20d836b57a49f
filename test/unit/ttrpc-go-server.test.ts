/** Our client against containerd's own server, whose handlers are in test/peer-go/serve.go. */
import { once } from 'node:events'
import net from 'node:net'
import t from 'tap'
import { serviceOf, TtrpcClient, type Calls, type ConnectionOptions } from '#shared/ttrpc/index.ts'
import { buildPeer, servePeer, socketFolder } from '../peer-go/go.ts'
import { peerService, type PeerTypes } from '../peer-go/service.ts'
import { collect, failure, values } from '../support/ttrpc-calls.ts'

const peer = buildPeer()
const MiB = 1024 * 1024

/** One connection to a server that ends with the scope. */
async function connect(
  socket: string,
  options?: ConnectionOptions,
): Promise<Disposable & { client: TtrpcClient; calls: Calls<PeerTypes> }> {
  const connection = net.connect(socket)
  await once(connection, 'connect')
  const client = new TtrpcClient(connection, options)
  return { client, calls: client.calls(peerService), [Symbol.dispose]: () => client.close() }
}

t.test('our client, Go server', { skip: 'lack' in peer && `lacks: ${peer.lack}` }, async (t) => {
  if ('lack' in peer) return
  using sockets = socketFolder()
  const socket = sockets.path('s')
  await using _server = await servePeer(peer.path, socket)

  await t.test('unary', async (t) => {
    using peer = await connect(socket)
    const { calls } = peer
    t.same(await calls.Echo({ value: Buffer.from('hello') }), { value: Buffer.from('hello') })
    t.same(await calls.Echo({}), { value: Buffer.alloc(0) }, 'an empty request and response')

    const error = await failure(calls.Echo({ value: Buffer.from('status:5:no such thing: ‘größe’ 🙂') }))
    t.match(error, { code: 'NOT_FOUND', message: 'no such thing: ‘größe’ 🙂' })
    t.equal(error.details.length, 1)
    t.equal(error.details[0]?.type_url, 'type.googleapis.com/google.protobuf.StringValue')
    t.match(Buffer.from(error.details[0]?.value ?? []).toString(), 'about no such thing: ‘größe’ 🙂')
  })

  await t.test('unknown service and method', async (t) => {
    using peer = await connect(socket)
    for (const path of ['/no.such.Service/Echo', '/kuasar.test.v1.Peer/Nothing']) {
      const unknown = serviceOf<Pick<PeerTypes, 'Echo'>>({ Echo: { ...peerService.methods.Echo, path } })
      t.match(await failure(peer.client.calls(unknown).Echo({})), { code: 'UNIMPLEMENTED' }, path)
    }
    t.same(await peer.calls.Echo({}), { value: Buffer.alloc(0) })
  })

  await t.test('metadata and deadlines', async (t) => {
    using peer = await connect(socket)
    const { calls } = peer
    const metadata = { 'one': ['1'], 'Many': ['a', 'b'], 'empty': [''] }
    const described = await calls.Describe({ value: '' }, { metadata, timeoutMs: 60_000 })
    t.match(described.value, /^empty=;many=a,b;one=1;deadline=5\d{4}$/)
    const days100Ms = 100 * 24 * 3600 * 1000
    const long = await calls.Describe({ value: '' }, { timeoutMs: days100Ms })
    const leftMs = Number(long.value.replace('deadline=', ''))
    t.ok(leftMs > days100Ms - 60_000 && leftMs <= days100Ms, `${leftMs} ms left of 100 days`)

    const late = await failure(calls.Echo({ value: Buffer.from('slow:200') }, { timeoutMs: 30 }))
    t.match(late, { code: 'DEADLINE_EXCEEDED' })
    t.match(await failure(calls.Echo({}, { timeoutMs: -1 })), { code: 'DEADLINE_EXCEEDED' })
    const value = Buffer.from('slow:250')
    t.same(await calls.Echo({ value }), { value }, 'the late answer is nobody’s')
  })

  await t.test('abort', async (t) => {
    using peer = await connect(socket)
    const { calls } = peer
    const aborter = new AbortController()
    const aborted = failure(calls.Echo({ value: Buffer.from('slow:100') }, { signal: aborter.signal }))
    aborter.abort()
    t.match(await aborted, { code: 'CANCELLED' })
    const timedOut = failure(calls.Echo({ value: Buffer.from('slow:100') }, { signal: AbortSignal.timeout(10) }))
    t.match(await timedOut, { code: 'DEADLINE_EXCEEDED' })
    t.match(await failure(calls.Echo({}, { signal: AbortSignal.abort() })), { code: 'CANCELLED' })
    t.same(await calls.Echo({}), { value: Buffer.alloc(0) })

    const pending = failure(calls.Echo({ value: Buffer.from('slow:60000') }))
    peer.client.close()
    t.match(await pending, { code: 'CANCELLED' }, 'closing aborts what is pending')
    t.match(await failure(calls.Echo({})), { code: 'CANCELLED' })
    t.equal(await peer.client.closed, undefined)
  })

  await t.test('sizes', async (t) => {
    for (const writeBytesMax of [Number.POSITIVE_INFINITY, 16 * 1024]) {
      using peer = await connect(socket, { writeBytesMax })
      const { calls } = peer
      const value = Buffer.alloc(4 * MiB - 64, 'k')
      const echoed = await calls.Echo({ value })
      t.ok(value.equals(echoed.value), '4 MiB less 64 bytes each way')
      const error = await failure(calls.Echo({ value: Buffer.alloc(4 * MiB) }))
      t.match(error, { code: 'RESOURCE_EXHAUSTED', message: /4194\d{3} bytes/ })
      t.same(await calls.Echo({}), { value: Buffer.alloc(0) }, 'and the connection lives')
    }
    // Go's server closes the connection rather than send more than it may.
    using peer = await connect(socket)
    t.match(await failure(peer.calls.Fill({ value: 4 * MiB })), { code: 'UNAVAILABLE' })
  })

  await t.test('2000 calls at once', async (t) => {
    using peer = await connect(socket)
    const inputs = Array.from({ length: 2000 }, (_, i) => Buffer.from(`call ${i}`))
    const outputs = await Promise.all(inputs.map((value) => peer.calls.Echo({ value })))
    t.ok(outputs.every((output, i) => inputs[i]?.equals(output.value)))
  })

  await t.test('streams', async (t) => {
    using peer = await connect(socket)
    const { calls } = peer
    t.same(await calls.Sum(values(1, 2, 0, 3)), { value: '6' }, 'client streaming, with an empty message')
    t.same(await calls.Sum(values()), { value: '0' }, 'client streaming, without any')
    const numbers = Array.from({ length: 1000 }, (_, i) => String(i + 1))
    t.same(await collect(calls.Count({ value: 1000 })), { values: numbers })

    const counted = await collect(calls.Count({ value: -3 }))
    t.match(counted, { values: ['1', '2', '3'], error: { code: 'ABORTED', message: 'counted to 3' } })

    const sent = [Buffer.from('one'), Buffer.alloc(0), Buffer.alloc(100_000, 'x'), Buffer.alloc(0)]
    t.same(await collect(calls.Chat(values(...sent))), { values: sent }, 'bidirectional, with empty messages')
    const { error: refused } = await collect(calls.Chat(values(Buffer.from('status:9:not now'))))
    t.match(refused, { code: 'FAILED_PRECONDITION', message: 'not now' })
  })

  await t.test('a stream nobody reads, beside unary calls', async (t) => {
    using peer = await connect(socket, { streamQueueBytesMax: 64 * 1024, streamStallMsMax: 50 })
    const { calls } = peer
    const unread = calls.Count({ value: 100_000 })
    for (let i = 0; i < 100; i++) await calls.Echo({})
    t.pass('100 calls beside it')
    t.match(await collect(unread), { error: { code: 'RESOURCE_EXHAUSTED' } })
  })

  await t.test('a stream that is alone waits for its reader', async (t) => {
    using peer = await connect(socket, { streamQueueBytesMax: 64 * 1024, streamStallMsMax: 20 })
    const stream = peer.calls.Count({ value: 20_000 })
    let last = '0'
    for await (const { value } of stream) {
      if (value === '1') await new Promise((resolve) => setTimeout(resolve, 200))
      last = value
    }
    t.equal(last, '20000')
  })

  await t.test('breaking off a stream', async (t) => {
    using peer = await connect(socket)
    for await (const { value } of peer.calls.Count({ value: 1000 })) if (value === '5') break
    t.same(await peer.calls.Echo({}), { value: Buffer.alloc(0) })
  })

  await t.test('killed with calls and streams pending', async (t) => {
    await using server = await servePeer(peer.path, sockets.path('killed'))
    using mortal = await connect(sockets.path('killed'))
    const { calls } = mortal
    const counting = Promise.withResolvers<void>()
    const count = async () => {
      for await (const { value } of calls.Count({ value: 1_000_000_000 })) if (value === '1000') counting.resolve()
    }
    const chat = calls.Chat(endless(Buffer.from('hello')))[Symbol.asyncIterator]()
    const answered = chat.next()
    const pending = {
      unary: failure(calls.Echo({ value: Buffer.from('slow:600000') })),
      'client streaming': failure(calls.Sum(endless(1))),
      'server streaming': failure(count()),
      bidirectional: answered.then(() => failure(chat.next())),
    }
    // What it answers before the end, the server has answered; the others it was sent before.
    await Promise.all([answered, counting.promise])
    await server.kill()
    for (const [kind, failed] of Object.entries(pending)) t.match(await failed, { code: 'UNAVAILABLE', message: /the connection is over/ }, kind)
    t.match(await failure(calls.Echo({})), { code: 'UNAVAILABLE' }, 'and a call after it')
  })
})

/** One message, and no end. */
async function* endless<T>(value: T): AsyncGenerator<{ value: T }> {
  yield { value }
  await new Promise(() => {})
}
