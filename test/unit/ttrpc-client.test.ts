/** The client against a server that sends any bytes it likes, or nothing. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { answer, collect, data, echo, failure, half, refusal, text, two, values } from '../support/ttrpc-calls.ts'
import { bytesValue, frame, rawServer } from '../support/ttrpc-raw.ts'

t.test('what goes out', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  const unary = calls.Echo({ value: text('x') }, { timeoutMs: 1500, metadata: { 'Key': ['v'] } })
  t.match(await peer.request(), {
    id: 1,
    flags: 0,
    service: 'kuasar.test.v1.Peer',
    method: 'Echo',
    payload: bytesValue(text('x')),
    timeout_nano: '1500000000',
    metadata: [{ key: 'key', value: 'v' }],
  })
  peer.send(answer(1, bytesValue(text('x'))))
  t.same(await unary, { value: text('x') })

  const untimed = calls.Echo({ value: text('y') }, { metadata: { Key: ['v', 'w'] } })
  t.match(await peer.request(), { id: 3, timeout_nano: '0', metadata: [{ key: 'key', value: 'v' }, { key: 'key', value: 'w' }] })
  peer.send(answer(3, bytesValue(text('y'))))
  t.same(await untimed, { value: text('y') })

  const sum = calls.Sum(values(2, 0))
  t.match(
    await peer.request(),
    { id: 5, flags: 6, method: 'Sum', payload: Buffer.alloc(0), timeout_nano: '0', metadata: [] },
  )
  t.match(await peer.next(), { id: 5, type: 3, flags: 0, data: two })
  t.match(await peer.next(), { id: 5, type: 3, flags: 0 })
  t.match(await peer.next(), { id: 5, type: 3, flags: half, data: Buffer.alloc(0) })
  peer.send(answer(5, two))
  t.same(await sum, { value: '2' })

  const count = collect(calls.Count({ value: 2 }))
  t.match(await peer.request(), { id: 7, flags: 1, method: 'Count', payload: two })
  peer.send(frame(7, 3, 0, two), frame(7, 3, 0), frame(7, 3, half))
  t.same(await count, { values: ['2', '0'] })

  const chat = collect(calls.Chat(values(text(''))))
  t.match(await peer.request(), { id: 9, flags: 6, method: 'Chat' })
  t.match(await peer.next(), { id: 9, type: 3, flags: 0 })
  t.match(await peer.next(), { id: 9, type: 3, flags: half })
  peer.send(frame(9, 3, 1, bytesValue(text('last'))))
  t.same(await chat, { values: [text('last')] }, 'a close that carries a message')
})

t.test('frames that mean nothing', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  const call = calls.Echo({ value: text('x') })
  const { id } = await peer.request()
  peer.send(
    frame(id, 9, 0, text('unknown type')),
    frame(id, 1, 0, text('a request')),
    answer(99, text('unknown id')),
    answer(2, text('even id')),
    frame(101, 3, 0, text('data')),
    frame(103, 2, 0, Buffer.alloc(5_000_000)),
    answer(id, bytesValue(text('x'))),
    answer(id, bytesValue(text('again'))),
  )
  t.same(await call, { value: text('x') })
  t.ok(await Promise.all([calls.Echo({}), echo(peer)]))
})

t.test('wrong answers', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  const ask = async (...frames: ((id: number) => Buffer)[]): Promise<RuntimeError> => {
    const failed = failure(calls.Echo({}))
    const { id } = await peer.request()
    peer.send(...frames.map((make) => make(id)))
    return failed
  }
  t.match(
    await ask((id) => frame(id, 2, 0, text('\x0a\x7fgarbage'))),
    { code: 'INTERNAL', message: /Echo: the answer is malformed/ },
  )
  t.match(
    await ask((id) => answer(id, text('\x0a\x7fgarbage'))),
    { code: 'INTERNAL', message: /Echo: the answer could not be decoded/ },
  )
  t.match(
    await ask((id) => frame(id, 3, 0, text('data'))),
    { code: 'INTERNAL', message: /Echo: the peer answered with a stream/ },
  )
  const large = await ask((id) => frame(id, 2, 0, Buffer.alloc(4_200_000)))
  t.match(
    large,
    { code: 'RESOURCE_EXHAUSTED', message: /Echo: an answer of 4200000 bytes is above the limit of 4194304/ },
  )
  t.match(await ask((id) => refusal(id, 5, 'none such')), { code: 'NOT_FOUND', message: 'none such' })
  t.match(await ask((id) => refusal(id, 99, 'odd')), { code: 'UNKNOWN', message: 'odd' })
  t.match(await ask((id) => refusal(id, -1, 'odd')), { code: 'UNKNOWN', message: 'odd' })
  t.ok(await Promise.all([calls.Echo({}), echo(peer)]), 'the connection lives through all of it')
})

t.test('how streams end', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  const ask = async (...frames: ((id: number) => Buffer)[]): Promise<{ values: string[]; error?: unknown }> => {
    const read = collect(calls.Count({ value: 1 }))
    const { id } = await peer.request()
    peer.send(...frames.map((make) => make(id)))
    return read
  }
  t.same(await ask(data, (id) => frame(id, 3, half), data), { values: ['2'] }, 'what follows the end is nobody’s')
  t.same(await ask(data, (id) => frame(id, 2, 0)), { values: ['2'] }, 'an OK Response without a payload')
  t.same(await ask(data, (id) => answer(id, two)), { values: ['2', '2'] }, 'an OK Response with a last message')
  const refused = await ask(data, data, (id) => refusal(id, 10, 'no more'))
  t.match(refused, { values: ['2', '2'], error: { code: 'ABORTED', message: 'no more' } })
  t.match(
    await ask(data, (id) => frame(id, 3, 0, text('\x08'))),
    { values: ['2'], error: { code: 'INTERNAL', message: /could not be decoded/ } },
  )
  t.match(
    await ask(data, (id) => frame(id, 2, 0, text('\x0a\x7f'))),
    { values: ['2'], error: { code: 'INTERNAL', message: /malformed/ } },
  )
  t.match(await ask(data, (id) => frame(id, 3, 0, Buffer.alloc(4_200_000))), { error: { code: 'RESOURCE_EXHAUSTED' } })
  const broken = calls.Count({ value: 1 })[Symbol.asyncIterator]()
  peer.send(frame((await peer.request()).id, 3, 0, text('\x08')))
  await t.rejects(broken.next(), { code: 'INTERNAL' })
  t.match(await broken.next(), { done: true }, 'who reads on is not left waiting')
  t.ok(await Promise.all([calls.Echo({}), echo(peer)]))
})

t.test('cancelling', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  const aborter = new AbortController()
  const unary = failure(calls.Echo({}, { signal: aborter.signal }))
  const stream = calls.Count({ value: 1 }, { signal: aborter.signal })[Symbol.asyncIterator]()
  const { id } = await peer.request()
  const counting = await peer.request()
  peer.send(data(counting.id), data(counting.id), data(counting.id))
  t.same(await stream.next(), { done: false, value: { value: '2' } })
  aborter.abort(new RuntimeError('ABORTED', 'changed my mind'))
  t.match(await unary, { code: 'ABORTED', message: 'changed my mind' }, 'a reason of ours is kept')
  t.match(await failure(stream.next()), { code: 'ABORTED' }, 'what was not read is dropped')
  t.match(await stream.next(), { done: true })
  peer.send(answer(id, bytesValue(text('late'))), frame(counting.id, 3, 0, two))

  t.match(
    await failure(calls.Echo({}, { signal: AbortSignal.abort('why not') })),
    { code: 'CANCELLED', cause: 'why not' },
  )
  t.match(await failure(calls.Echo({}, { timeoutMs: 0 })), { code: 'DEADLINE_EXCEEDED' })
  t.match(await failure(calls.Echo({}, { timeoutMs: Number.NaN })), { code: 'INVALID_ARGUMENT' })
  const forever = calls.Echo({}, { timeoutMs: Number.POSITIVE_INFINITY })
  t.match(await peer.request(), { id: 5, timeout_nano: '0' }, 'what failed before took no stream id')
  peer.send(answer(5, Buffer.alloc(0)))
  t.same(await forever, { value: Buffer.alloc(0) })
})

async function* failing(): AsyncGenerator<{ value: number }> {
  yield { value: 2 }
  throw new Error('the disk is gone')
}

t.test('a request stream cut short', async (t) => {
  using link = await rawServer()
  const { calls, peer } = link
  t.match(await failure(calls.Sum(failing())), { code: 'CANCELLED', cause: { message: 'the disk is gone' } })
  await peer.request()
  t.match(await peer.next(), { type: 3, data: two })

  const cleaned: string[] = []
  const waiting = async function* (): AsyncGenerator<{ value: Buffer }> {
    try {
      yield { value: text('x') }
      yield { value: text('y') }
      await sleep(20)
      yield { value: text('z') }
    } finally {
      cleaned.push('x')
    }
  }
  const chat = collect(calls.Chat(waiting()))
  const { id } = await peer.request()
  peer.send(frame(id, 3, half))
  t.same(await chat, { values: [] }, 'the peer ended the call')
  while (cleaned.length < 1) await sleep(1)
  t.pass('the source ran its finally')
  const broken = calls.Chat(waiting())
  const second = await peer.next()
  t.match(second, { type: 3 })
  await broken[Symbol.asyncIterator]().return?.()
  while (cleaned.length < 2) await sleep(1)
  t.pass('also when the answers are not wanted')
  const closed = peer.frames.some((one) => one.id === 3 && one.flags === half)
  t.notOk(closed, 'a stream cut short is not closed like a whole one')
  // @ts-expect-error what a caller without types could pass
  t.match(await failure(calls.Sum(5)), { code: 'INVALID_ARGUMENT', message: /must be an async iterable/ })
})
