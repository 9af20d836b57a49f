/** The server when a peer asks for too much, reads too little or goes away, and when the server itself ends. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { hasCode } from '#shared/errors.ts'
import type { Handlers } from '#shared/ttrpc/index.ts'
import { TimeShare, threadCpuMs } from '#shared/ttrpc/time-share.ts'
import type { PeerTypes } from '../peer-go/service.ts'
import { alive, attack, slow } from '../support/ttrpc-attack.ts'
import { text } from '../support/ttrpc-calls.ts'
import { bytesValue, frame, rawClient, request } from '../support/ttrpc-raw.ts'

t.test('a peer that dies', async (t) => {
  const ended: string[] = []
  const handlers: Handlers<PeerTypes> = {
    async Echo(_request, { signal }) {
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      ended.push(`Echo ${hasCode(signal.reason, 'UNAVAILABLE')}`)
      return {}
    },
    async *Chat(requests) {
      try {
        for await (const incoming of requests) yield incoming
      } catch (error) {
        ended.push(`Chat ${hasCode(error, 'UNAVAILABLE')}`)
      }
    },
    async *Count(_request, { signal }) {
      try {
        yield { value: 1 }
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        yield { value: 2 }
      } finally {
        ended.push('Count')
      }
    },
  }
  await using attacked = await attack({}, handlers)
  const { peer, errors } = attacked
  peer.send(
    frame(1, 1, 0, request('Echo', text('x'))),
    frame(3, 1, 2, request('Chat', text(''))),
    frame(5, 1, 1, request('Count', text(''))),
  )
  await peer.next()
  peer.socket.end(frame(7, 1, 0, slow).subarray(0, 17))
  await peer.end()
  await sleep(1)
  t.same(ended.toSorted(), ['Chat true', 'Count', 'Echo true'])
  t.equal(attacked.server.connections, 0)
  t.equal(errors.length, 1)
  t.match(
    errors[0],
    { code: 'UNAVAILABLE', message: /closed the connection, after 7 of the \d+ bytes of a Request on/ },
  )
  t.match(errors[0]?.message, /on stream 7; 3 calls not answered: .*Echo.*Chat.*Count/)
})

t.test('too many calls', async (t) => {
  await using attacked = await attack({ concurrentCallsMax: 3, heldBytesMax: 10_000 })
  const { peer } = attacked
  peer.send(frame(1, 1, 0, slow), frame(3, 1, 6, request('Chat', text(''))), frame(5, 1, 6, request('Sum', text(''))))
  peer.send(frame(7, 1, 0, request('Echo', text('x'))))
  t.match(await peer.response(), { id: 7, code: 8, message: /Echo: 3 calls are in flight, which is the limit/ })
  peer.send(frame(5, 3, 5))
  t.match(await peer.response(), { id: 5, code: 0 })
  await alive(t, peer)
  peer.send(frame(9, 1, 0, request('Echo', Buffer.alloc(20_000))))
  t.match(await peer.response(), { id: 9, code: 8, message: /holds \d+ bytes/ })
  for (let i = 0; i < 10; i++) {
    peer.send(frame(11, 1, 0, request('Echo', Buffer.alloc(5000))))
    t.match(await peer.response(), { id: 11, code: 0 }, 'what is answered is not held')
  }
})

t.test('a peer that keeps the process busy', async (t) => {
  const busyMs = 150
  const echoes: { readonly atMs: number; readonly value: string }[] = []
  const handlers: Handlers<PeerTypes> = {
    Echo({ value }) {
      const atMs = performance.now()
      echoes.push({ atMs, value: value.toString() })
      const before = threadCpuMs()
      while (value.includes('busy') && threadCpuMs() - before < busyMs);
      return { value }
    },
  }
  await using attacked = await attack({ readShare: new TimeShare(0.25, performance.now()) }, handlers)
  await using bystander = await attack({}, handlers)
  const { peer } = attacked
  peer.send(frame(1, 1, 0, request('Echo', text('busy'))))
  t.match(await peer.response(), { id: 1, code: 0 })
  peer.send(frame(3, 1, 0, request('Echo', text('later'))))
  bystander.peer.send(frame(1, 1, 0, request('Echo', text('other'))))
  await bystander.peer.response()
  t.match(await peer.response(), { id: 3, code: 0 }, 'it is served again')
  t.match(echoes.map(({ value }) => value), [/busy/, /other/, /later/], 'the others come first')
  // 100 ms of the 150 were saved up; of the other 50, 37.5 are earned in the 150 themselves and 12.5 in 50 more.
  t.ok((echoes[2]?.atMs ?? 0) - (echoes[0]?.atMs ?? 0) >= 200, 'what it took is taken off it')
})

t.test('what a peer takes a little at a time counts as well', async (t) => {
  let spentMs = 0
  class Counted extends TimeShare {
    override spend(tookMs: number, nowMs: number): number {
      spentMs += tookMs
      return super.spend(0, nowMs)
    }
  }
  await using attacked = await attack({ readShare: new Counted(0.25, performance.now()) }, {
    Echo({ value }) {
      const startMs = performance.now()
      while (performance.now() - startMs < 1);
      return { value }
    },
  })
  const before = threadCpuMs()
  for (let call = 0; call < 200; call++) {
    attacked.peer.send(frame(1, 1, 0, request('Echo', text('x'))))
    await attacked.peer.response()
    // The process has nothing to do in between, as a server mostly has not.
    await sleep(2)
  }
  const hadMs = threadCpuMs() - before
  t.ok(spentMs > hadMs * 0.4, `${Math.round(spentMs)} ms of the thread's ${Math.round(hadMs)} were in the calls`)
})

t.test('a share of the time', (t) => {
  const share = new TimeShare(0.25, 0)
  t.equal(share.spend(60, 1000), 0, 'of the 100 that may be saved 45 are gone, for 15 were earned meanwhile')
  t.equal(share.spend(80, 1080), 20, '5 more than there were')
  t.equal(share.spend(20, 1120), 60, 'the rest has paid for those')
  t.equal(share.spend(100, 100_000), 0, 'all of it is there again')
  const all = new TimeShare(1, 0)
  t.equal(all.spend(5000, 5000), 0, 'a share of 1 is no limit')
  for (const wrong of [0, -1, 1.5, Number.NaN]) t.throws(() => new TimeShare(wrong), { code: 'INVALID_ARGUMENT', message: /above 0 and up to 1/ }, `${wrong}`)
  t.end()
})

t.test('a handler that does not read its stream', async (t) => {
  await using attacked = await attack({ streamQueueBytesMax: 100_000, streamStallMsMax: 20 }, {
    async Sum(_requests, { signal }) {
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      return {}
    },
  })
  const { peer } = attacked
  const message = bytesValue(Buffer.alloc(1000))
  peer.send(frame(1, 1, 6, request('Sum', text(''))))
  for (let i = 0; i < 60; i++) peer.send(frame(1, 3, 0, message))
  t.match(
    await peer.response(),
    { id: 1, code: 8, message: /the handler left \d+ bytes of the stream unread/ },
    'half a queue, for too long',
  )
  await alive(t, peer)
  peer.send(frame(3, 1, 6, request('Sum', text(''))), ...Array.from({ length: 200 }, () => frame(3, 3, 0, message)))
  t.match(await peer.response(), { id: 3, code: 8 }, 'a full queue')
  await alive(t, peer)
})

t.test('a stream that is more than a connection may hold', async (t) => {
  let handled = 0
  await using attacked = await attack({ streamQueueBytesMax: 1000, heldBytesMax: 2000 }, {
    async Sum(requests) {
      handled++
      await sleep(20)
      for await (const _ of requests);
      return {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 2, request('Sum', Buffer.alloc(1500))))
  t.match(await peer.response(), { id: 1, code: 8 })
  t.equal(handled, 0, 'a first message too many never reaches the handler')
  const open = request('Sum', text(''))
  const message = bytesValue(Buffer.alloc(600))
  for (const id of [3, 5, 7]) peer.send(frame(id, 1, 2, open), frame(id, 3, 0, message))
  peer.send(frame(7, 3, 0, message))
  t.match(await peer.response(), { id: 7, code: 8 }, 'the last one is too many for the connection')
  for (const id of [3, 5]) peer.send(frame(id, 3, 5))
  // The zeros are not an Int64Value; what counts is that both were read.
  t.same(new Set([(await peer.response()).id, (await peer.response()).id]), new Set([3, 5]))
  await alive(t, peer)
})

t.test('a handler that closes the server', async (t) => {
  let closed: Promise<void> | undefined
  const attacked = await attack({}, {
    async *Count() {
      yield {}
    },
    Echo() {
      closed = attacked.server.close()
      return {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 0, request('Echo', text('x'))), frame(3, 1, 0, request('Echo', text('y'))))
  t.match(await peer.response(), { id: 1, code: 14 })
  t.match(await peer.response(), { id: 3, code: 14, message: /Echo: the server is closing/ })
  await closed
  await attacked[Symbol.asyncDispose]()
})

t.test('a handler that stops reading its stream', async (t) => {
  await using attacked = await attack({ streamQueueBytesMax: 10_000, streamStallMsMax: 20 }, {
    async Sum(requests) {
      for await (const { value } of requests) {
        await sleep(50)
        return { value }
      }
      return {}
    },
  })
  const { peer } = attacked
  peer.send(frame(1, 1, 6, request('Sum', text(''))), frame(1, 3, 0, Buffer.from('0805', 'hex')))
  t.match(await peer.response(), { id: 1, code: 0, payload: Buffer.from('0805', 'hex') })
  for (let i = 0; i < 100; i++) peer.send(frame(1, 3, 0, Buffer.alloc(1000)))
  await alive(t, peer)
})

t.test('a peer that does not read', async (t) => {
  let answered = 0
  let pulled = 0
  const reading = new AbortController()
  await using attacked = await attack({ sendQueueBytesMax: 2_000_000, sendQueueBytesHigh: 200_000 }, {
    Echo(incoming) {
      answered++
      return incoming
    },
    async *Count() {
      while (!reading.signal.aborted) yield { value: ++pulled }
    },
  })
  const { peer } = attacked
  peer.socket.pause()
  peer.send(frame(1, 1, 1, request('Count', text(''))))
  const calls = 3000
  for (let i = 0; i < calls; i++) peer.send(frame(3 + 2 * i, 1, 0, request('Echo', Buffer.alloc(10_000))))
  let before = -1
  while (before !== answered + pulled) {
    before = answered + pulled
    await sleep(100)
  }
  t.ok(answered < 500, `${answered} of ${calls} requests were read`)
  t.ok(pulled < 100_000, `${pulled} messages were pulled`)
  reading.abort()
  peer.socket.resume()
  const answers = new Set<number>()
  while (answers.size < calls) {
    const { id, type } = await peer.next()
    if (type === 2) answers.add(id)
  }
  t.equal(answers.size, calls, 'once it reads, everything is answered')
})

t.test('answers that wait for room', async (t) => {
  const gate = Promise.withResolvers<void>()
  let started = 0
  await using attacked = await attack({ sendQueueBytesMax: 1_500_000 }, {
    async Fill() {
      started++
      await gate.promise
      return { value: Buffer.alloc(1_000_000) }
    },
  })
  const { peer } = attacked
  const ids = [1, 3, 5, 7, 9, 11]
  for (const id of ids) {
    const timeout = id === 11 ? { timeout_nano: 200_000_000 } : {}
    peer.send(frame(id, 1, 0, request('Fill', text(''), timeout)))
  }
  while (started < ids.length) await sleep(1)
  peer.socket.pause()
  gate.resolve()
  await sleep(300)
  peer.socket.resume()
  const codes: Record<number, number> = {}
  for (const _ of ids) {
    const { id, code } = await peer.response()
    codes[id] = code
  }
  t.same(codes, { 1: 0, 3: 0, 5: 0, 7: 0, 9: 0, 11: 4 }, 'all come, but for the one whose deadline passed meanwhile')
  await alive(t, peer)
})

t.test('closing', async (t) => {
  await using attacked = await attack()
  const { peer, server } = attacked
  peer.send(frame(1, 1, 0, slow), frame(3, 1, 6, request('Chat', text(''))), frame(5, 1, 0, request('Echo', text('x'))))
  t.match(await peer.response(), { id: 5, code: 0 })
  const closed = server.close()
  t.match(await peer.response(), { id: 1, code: 14, message: 'the server is closing' })
  t.match(await peer.response(), { id: 3, code: 14 })
  await closed
  await peer.end()
  t.equal(server.connections, 0)
  using late = await rawClient(server)
  await late.peer.end()
  t.equal(server.connections, 0, 'a closed server accepts nothing')
})

t.test('closing on a peer that does not read', async (t) => {
  await using attacked = await attack({ closeMsMax: 50 })
  const { peer, server } = attacked
  peer.socket.pause()
  const twoMillion = request('Fill', text(''), { payload: Buffer.from('0880897a', 'hex') })
  for (let id = 1; id < 21; id += 2) peer.send(frame(id, 1, 0, twoMillion))
  while (attacked.calls.length === 0) await sleep(1)
  await server.close()
  t.equal(server.connections, 0)
})
