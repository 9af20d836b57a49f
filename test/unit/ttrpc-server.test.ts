/** The server against a peer that sends any bytes it likes. */
import { setTimeout as sleep } from 'node:timers/promises'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { serviceOf, TtrpcServer, type CallContext, type Service } from '#shared/ttrpc/index.ts'
import { peerHandlers, peerService, type PeerTypes } from '../peer-go/service.ts'
import { alive, attack, slow } from '../support/ttrpc-attack.ts'
import { text } from '../support/ttrpc-calls.ts'
import { bytesValue, envelopes, frame, RawPeer, request, socketPair } from '../support/ttrpc-raw.ts'

t.test('stream ids', async (t) => {
  await using attacked = await attack()
  const { peer } = attacked
  for (const id of [0, 2, 0xffff_fffe]) {
    peer.send(frame(id, 1, 0, request('Echo', text('x'))))
    t.match(await peer.response(), { id, code: 3, message: `stream id ${id} is even; a client's are odd` })
  }
  for (const id of [9, 3, 7, 0xffff_ffff, 9, 3]) {
    peer.send(frame(id, 1, 0, request('Echo', text('x'))))
    t.match(await peer.response(), { id, code: 0 }, `${id}, out of order or used before`)
  }
  peer.send(frame(5, 1, 0, slow), frame(5, 1, 0, request('Echo', text('x'))))
  t.match(await peer.response(), { id: 5, code: 3, message: 'stream id 5 is in use' }, 'one answer for both')
  await alive(t, peer)
})

t.test('frames that mean nothing', async (t) => {
  await using attacked = await attack()
  const { peer } = attacked
  peer.send(
    frame(1, 0, 0, text('x')),
    frame(1, 4, 0, text('x')),
    frame(1, 255, 255),
    frame(1, 2, 0, text('a response')),
    frame(3, 3, 0, text('data for nothing')),
    frame(4, 3, 5),
  )
  await alive(t, peer)
  t.same(attacked.errors, [])
})

t.test('malformed requests', async (t) => {
  await using attacked = await attack()
  const { peer } = attacked
  peer.send(frame(1, 1, 0, text('\x0a\x7fgarbage')))
  t.match(await peer.response(), { id: 1, code: 3, message: /^the request is malformed: / })
  peer.send(frame(3, 1, 0, request('Echo', text(''), { payload: text('\x0a\x7fgarbage') })))
  t.match(await peer.response(), { id: 3, code: 3, message: /Echo: the request could not be decoded: / })
  peer.send(frame(5, 1, 0))
  t.match(await peer.response(), { id: 5, code: 12, message: 'service "" is not served here' })
  peer.send(frame(7, 1, 0, request('Echo', text(''), { method: 'x'.repeat(100_000) })))
  const { message } = await peer.response()
  t.match(message, /^service kuasar\.test\.v1\.Peer has no method "xxx/)
  t.ok(message.length < 400, 'a name from the peer is cut short')
  const metadata = Array.from({ length: 1025 }, () => ({ key: '', value: '' }))
  peer.send(frame(9, 1, 0, request('Echo', text(''), { metadata })))
  t.match(await peer.response(), { id: 9, code: 3, message: /more than 1024 metadata pairs/ })
  peer.send(frame(11, 1, 0, request('Echo', text(''), { service: 'constructor', method: '__proto__' })))
  t.match(await peer.response(), { id: 11, code: 12 })
  t.same(attacked.refused, ['INVALID_ARGUMENT', 'UNIMPLEMENTED', 'UNIMPLEMENTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED'], 'its owner is told of those that became no call')
  await alive(t, peer)
})

t.test('frames above the limit', async (t) => {
  await using attacked = await attack({ sentFrameBytesMax: 1000, receivedFrameBytesMax: 1000 })
  const { peer } = attacked
  peer.send(frame(1, 1, 0, Buffer.alloc(1001)), frame(3, 1, 0, request('Echo', text('next'))))
  t.match(await peer.response(), { id: 1, code: 8, message: 'a frame of 1001 bytes is above the limit of 1000' })
  t.match(await peer.response(), { id: 3, code: 0 }, 'what follows is read')

  const large = frame(5, 1, 0, Buffer.alloc(5 * 1024 * 1024))
  for (let at = 0; at < large.length; at += 70_001) peer.send(large.subarray(at, at + 70_001))
  t.match(await peer.response(), { id: 5, code: 8 })
  await alive(t, peer)

  peer.send(frame(7, 1, 6, request('Chat', text(''))), frame(7, 3, 0, Buffer.alloc(2000)))
  t.match(await peer.response(), { id: 7, code: 8 }, 'a stream ends with a message too large')
  peer.send(frame(9, 3, 0, Buffer.alloc(2000)), frame(11, 9, 0, Buffer.alloc(2000)))
  await alive(t, peer, 13)

  peer.send(frame(15, 1, 0, request('Echo', Buffer.alloc(900))))
  t.match(await peer.response(), { id: 15, code: 0 })
  peer.send(frame(17, 1, 0, request('Fill', text(''), { payload: Buffer.from('08e807', 'hex') })))
  t.match(await peer.response(), { id: 17, code: 8, message: /an answer of 100\d bytes is above the limit of 1000/ })
})

t.test('messages of more fields than the limit', async (t) => {
  await using attacked = await attack({ receivedFieldsMax: 3 })
  const { peer, calls } = attacked
  // Field 15, empty, as often as asked: unknown, and so no harm.
  const empty = Buffer.from([0x7a, 0])
  const fields = (count: number) => Buffer.alloc(2 * count, empty)
  peer.send(frame(1, 1, 0, request('Echo', text(''), { payload: fields(4) })), frame(3, 1, 0, request('Echo', text(''), { payload: fields(3) })))
  t.match(await peer.response(), { id: 1, code: 3, message: /could not be decoded/ })
  t.match(calls[0]?.message, /more than 3 fields/)
  t.match(await peer.response(), { id: 3, code: 0 })
  peer.send(frame(5, 1, 6, request('Chat', text(''))), frame(5, 3, 0, fields(4)))
  t.match(await peer.response(), { id: 5, code: 3 }, 'a stream ends with such a message')
  peer.send(frame(7, 1, 0, request('Echo', text(''), { payload: Buffer.from([0x7a, 9, 0, 0, 0, 0, 0]) })))
  t.match(await peer.response(), { id: 7, code: 3 }, 'what is cut off is as malformed as ever')
  await alive(t, peer)
})

t.test('one byte at a time', async (t) => {
  await using attacked = await attack()
  const { peer } = attacked
  const first = frame(1, 1, 0, request('Echo', text('in pieces')))
  const bytes = Buffer.concat([first, frame(3, 1, 0, request('Echo', text('too')))])
  for (const byte of bytes) {
    peer.socket.write(Buffer.from([byte]))
    await sleep(0)
  }
  t.match(await peer.response(), { id: 1, code: 0, payload: bytesValue(text('in pieces')) })
  t.match(await peer.response(), { id: 3, code: 0, payload: bytesValue(text('too')) })
})

t.test('a socket that was read before, and paused', async (t) => {
  const server = new TtrpcServer().add(peerService, peerHandlers)
  using pair = await socketPair()
  pair.b.pause()
  pair.b.unshift(frame(1, 1, 0, request('Echo', text('early'))))
  server.accept(pair.b)
  t.match(await new RawPeer(pair.a).response(), { id: 1, code: 0, payload: bytesValue(text('early')) })
  await server.close()
})

t.test('stream messages where they do not belong', async (t) => {
  const contexts: CallContext[] = []
  await using attacked = await attack({}, {
    async Echo(incoming, context) {
      contexts.push(context)
      context.signal.throwIfAborted()
      return peerHandlers.Echo?.(incoming, context) ?? {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 0, slow), frame(1, 3, 0, text('data')))
  t.match(await peer.response(), { id: 1, code: 3, message: /Echo takes one request, and got a stream's message/ })
  t.match(contexts[0]?.signal.reason, { code: 'INVALID_ARGUMENT' }, 'the handler is told')

  peer.send(frame(3, 1, 6, request('Sum', text(''))), frame(3, 3, 5), frame(3, 3, 0, text('')))
  const answer = await peer.response()
  t.equal(answer.id, 3)
  await alive(t, peer)

  peer.send(frame(5, 1, 0, request('Sum', text(''))), frame(5, 3, 0, text('')))
  t.match(
    await peer.response(),
    { id: 5, code: 3, message: /a message came after the end of its stream/ },
    'opened without "remote open"',
  )
  peer.send(frame(7, 1, 6, request('Sum', text(''))), frame(7, 3, 0, text('\x08')))
  t.match(await peer.response(), { id: 7, code: 3, message: /Sum: the request could not be decoded/ })
  await alive(t, peer)
})

t.test('the ways to open and close a stream', async (t) => {
  await using attacked = await attack()
  const { peer } = attacked
  const two = Buffer.from('0802', 'hex')
  const four = Buffer.from('0804', 'hex')
  const open = request('Sum', text(''))
  const sums: Readonly<Record<string, Buffer[]>> = {
    'Go: 0x02, closed by 0x05': [frame(1, 1, 2, open), frame(1, 3, 0, two), frame(1, 3, 0, two), frame(1, 3, 5)],
    'Rust: 0x06': [frame(1, 1, 6, open), frame(1, 3, 0, two), frame(1, 3, 0, two), frame(1, 3, 5)],
    'an empty message': [frame(1, 1, 6, open), frame(1, 3, 0, four), frame(1, 3, 0), frame(1, 3, 5)],
    'closed by the last message': [frame(1, 1, 2, open), frame(1, 3, 0, two), frame(1, 3, 1, two)],
    'a first message in the request': [frame(1, 1, 2, request('Sum', text(''), { payload: two })), frame(1, 3, 1, two)],
    'all of it twice closed': [frame(1, 1, 2, open), frame(1, 3, 0, two), frame(1, 3, 1, two), frame(1, 3, 5)],
  }
  for (const [name, frames] of Object.entries(sums)) {
    peer.send(...frames)
    t.match(await peer.response(), { id: 1, code: 0, payload: four }, name)
  }
  peer.send(frame(1, 1, 1, request('Sum', text(''), { payload: two })))
  t.match(await peer.response(), { id: 1, code: 0, payload: two }, 'closed with the request')

  peer.send(frame(3, 1, 1, request('Count', text(''), { payload: two })))
  for (const data of [Buffer.from('0801', 'hex'), two]) t.match(await peer.next(), { id: 3, type: 3, flags: 0, data })
  t.match(await peer.next(), { id: 3, type: 3, flags: 5, data: Buffer.alloc(0) })
  peer.send(frame(3, 1, 2, request('Count', text(''))), frame(3, 3, 5))
  t.match(await peer.next(), { id: 3, type: 3, flags: 5 }, 'a half-close where none is due')

  peer.send(frame(5, 1, 6, request('Chat', text(''))), frame(5, 3, 0), frame(5, 3, 5))
  t.match(
    await peer.next(),
    { id: 5, type: 3, flags: 0, data: Buffer.from('0a00', 'hex') },
    'an empty message is a message',
  )
  t.match(await peer.next(), { id: 5, type: 3, flags: 5 })
  peer.send(frame(5, 3, 0, text('late')))
  await alive(t, peer)
})

t.test('deadlines', async (t) => {
  const contexts: CallContext[] = []
  await using attacked = await attack({}, {
    async Describe(_request, context) {
      contexts.push(context)
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
      throw context.signal.reason
    },
  })
  const { peer } = attacked
  for (const nanos of ['-1', '-9223372036854775808']) {
    peer.send(frame(1, 1, 0, request('Describe', text(''), { timeout_nano: nanos })))
    t.match(await peer.response(), { id: 1, code: 4 }, `a timeout of ${nanos} ns`)
  }
  t.equal(contexts.length, 0, 'the handler did not run')
  for (const nanos of ['1', '1000000']) {
    peer.send(frame(3, 1, 0, request('Describe', text(''), { timeout_nano: nanos })))
    t.match(await peer.response(), { id: 3, code: 4, message: /not done within the caller's/ })
  }
  t.ok(contexts.every((context) => context.signal.aborted && context.deadlineMs !== undefined))
  peer.send(frame(5, 1, 0, request('Describe', text(''), { timeout_nano: '9223372036854775807' })))
  await sleep(20)
  await alive(t, peer)
  t.equal(contexts[2]?.signal.aborted, false, '292 years are not over')
})

t.test('a stream whose deadline passes', async (t) => {
  const ended: string[] = []
  await using attacked = await attack({}, {
    async *Count() {
      try {
        for (;;) {
          yield { value: 1 }
          await sleep(1)
        }
      } finally {
        ended.push('Count')
      }
    },
    async Sum(requests) {
      // Left without anyone waiting for it: its rejection must not end the process.
      void requests[Symbol.asyncIterator]().next()
      await sleep(10_000, undefined, { ref: false })
      return {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 1, request('Count', text(''), { timeout_nano: 20_000_000 })))
  for (;;) {
    const { type, data } = await peer.next()
    if (type === 3) continue
    t.match(envelopes.decodeResponse(data), { status: { code: 4 } })
    break
  }
  await sleep(20)
  t.same(ended, ['Count'], 'the generator ends')
  await alive(t, peer)
  peer.send(frame(3, 1, 2, request('Sum', text(''), { timeout_nano: 1_000_000 })))
  t.match(await peer.response(), { id: 3, code: 4 })
})

t.test('a handler that waits for the next message of a call whose deadline passes', async (t) => {
  const told = Promise.withResolvers<unknown>()
  await using attacked = await attack({}, {
    async Sum(requests) {
      try {
        for await (const _ of requests);
      } catch (error) {
        told.resolve(error)
      }
      return {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 2, request('Sum', text(''), { timeout_nano: 1_000_000 })))
  t.match(await peer.response(), { id: 1, code: 4 })
  t.match(await told.promise, { code: 'DEADLINE_EXCEEDED' })
})

t.test('what handlers throw', async (t) => {
  const huge = { type_url: 'x', value: Buffer.alloc(5_000_000) }
  const circular = new Error('circular')
  circular.cause = circular
  const bigint = { cause: 7n }
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const thrown: Readonly<Record<string, readonly [unknown, number, RegExp]>> = {
    coded: [new RuntimeError('NOT_FOUND', 'no container x'), 5, /^no container x$/],
    caused: [new RuntimeError('INTERNAL', 'mount', { cause: new Error('EPERM') }), 13, /^mount: EPERM$/],
    plain: [new TypeError('x is not a function'), 13, /^x is not a function$/],
    ok: [new RuntimeError('OK', 'odd'), 2, /odd/],
    aborted: [AbortSignal.abort().reason, 1, /abort/],
    text: ['text', 13, /^text$/],
    nothing: [undefined, 13, /^undefined$/],
    bare: [Object.create(null), 13, /^\{\}$/],
    odd: [new RuntimeError('ABORTED', 'odd', { cause: bigint }), 10, /^odd: \[object Object\]$/],
    textless: [proxy, 2, /no text/],
    circular: [circular, 13, /^circular$/],
    large: [new RuntimeError('ABORTED', 'ü'.repeat(3_000_000)), 10, /^ü{8000,}.{0,2}…$/],
    detailed: [new RuntimeError('ABORTED', 'details', { details: [huge] }), 10, /^$/],
  }
  await using attacked = await attack({}, {
    Echo(incoming) {
      throw thrown[incoming.value.toString()]?.[0]
    },
    async *Chat(requests) {
      for await (const incoming of requests) {
        const [error] = thrown[incoming.value.toString()] ?? []
        if (incoming.value.length > 0) throw error
        yield incoming
      }
    },
  })
  const { peer } = attacked
  for (const [name, [, code, message]] of Object.entries(thrown)) {
    peer.send(frame(1, 1, 0, request('Echo', text(name))))
    t.match(await peer.response(), { id: 1, code, message }, name)
    peer.send(frame(3, 1, 2, request('Chat', text(''))), frame(3, 3, 0, bytesValue(text(name))))
    t.match(await peer.response(), { id: 3, code, message }, `${name}, in a stream`)
  }
  t.ok(attacked.errors.some((error) => error instanceof TypeError), 'an unexpected error is told of with its stack')
  t.match(attacked.calls.slice(0, 2), [
    { path: '/kuasar.test.v1.Peer/Echo', kind: 'unary', code: 'NOT_FOUND', message: 'no container x' },
    { path: '/kuasar.test.v1.Peer/Chat', kind: 'bidi', code: 'NOT_FOUND', message: 'no container x' },
  ])
})

t.test('handlers that give what they may not', async (t) => {
  const handlers = { ...peerHandlers, Echo: () => 5, Count: () => 5, Chat: async function* () { yield 5 } }
  // @ts-expect-error what an owner without types could pass
  await using attacked = await attack({}, handlers)
  const { peer } = attacked
  peer.send(frame(1, 1, 1, request('Count', text(''))))
  t.match(await peer.response(), { id: 1, code: 13, message: /Count: the handler returned no async iterable/ })
  peer.send(frame(3, 1, 0, request('Fill', text(''))))
  t.match(await peer.response(), { id: 3, code: 0 })
})

t.test('signals', async (t) => {
  const contexts: CallContext[] = []
  const early: AbortSignal[] = []
  await using attacked = await attack({}, {
    Echo(incoming, context) {
      contexts.push(context)
      if (incoming.value.length > 0) early.push(context.signal)
      return incoming
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 0, request('Echo', text('x'))), frame(3, 1, 0, request('Echo', text(''))))
  await peer.next()
  await peer.next()
  t.match(early[0]?.reason, { code: 'CANCELLED', message: /the call is over/ }, 'aborted when the call is over')
  t.equal(contexts[1]?.signal.aborted, true, 'also when first asked for then')
})

t.test('the reason of a signal that is first asked for when the time has run out', async (t) => {
  const { promise: reason, resolve } = Promise.withResolvers<unknown>()
  await using attacked = await attack({}, {
    async Echo(incoming, context) {
      await sleep(100)
      resolve(context.signal.reason)
      return incoming
    },
  })
  attacked.peer.send(frame(1, 1, 0, request('Echo', text('x'), { timeout_nano: '1000000' })))
  t.match(await attacked.peer.response(), { id: 1, code: 4 })
  t.match(await reason, { code: 'DEADLINE_EXCEEDED' })
})

t.test('promises that are not of this realm', async (t) => {
  const foreign: unknown = runInNewContext('Promise')
  await using attacked = await attack({}, {
    // @ts-expect-error a class of another realm has no type here
    Echo: (incoming) => foreign.resolve(incoming),
  })
  attacked.peer.send(frame(1, 1, 0, request('Echo', text('x'))))
  t.same((await attacked.peer.response()).payload, bytesValue(text('x')))
})

t.test('mistakes of the owner', async (t) => {
  const server = new TtrpcServer().add(peerService, {})
  t.throws(() => server.add(peerService, {}), { code: 'ALREADY_EXISTS' })
  const empty: Service<Record<string, PeerTypes['Echo']>> = { name: 'x.Y', methods: {} }
  t.throws(() => new TtrpcServer().add(empty, { Nothing: () => ({}) }), {
    code: 'INVALID_ARGUMENT',
    message: 'x.Y has no method Nothing, for which there is a handler',
  })
  const { Echo } = peerService.methods
  t.throws(() => serviceOf({}), { code: 'INVALID_ARGUMENT' })
  t.throws(() => serviceOf(undefined), { code: 'INVALID_ARGUMENT', message: /expected a service, as package\.Service/ })
  t.throws(() => serviceOf({ format: 'Protocol Buffer 3 DescriptorProto' }), { code: 'INVALID_ARGUMENT', message: /definition of a type/ })
  t.throws(
    () => serviceOf({ Echo: { ...Echo, path: 'Echo' } }),
    { code: 'INVALID_ARGUMENT', message: /"Echo" is not a method's path/ },
  )
  t.throws(
    () => serviceOf({ Echo, Other: { ...Echo, path: '/other/Echo' } }),
    { message: /methods of one service, not of: kuasar/ },
  )
  t.throws(() => new TtrpcServer({ sentFrameBytesMax: 0 }), { code: 'INVALID_ARGUMENT', message: /sentFrameBytesMax is 0/ })
  t.throws(() => new TtrpcServer({ closeMsMax: Number.NaN }), { code: 'INVALID_ARGUMENT' })
  await using attacked = await attack({
    onCall: () => {
      throw new Error('a hook that throws')
    },
  })
  await alive(t, attacked.peer)
})
