/**
 * Random bytes for everything of ttrpc that reads a peer's. A failure is repeated with the seed it printed:
 *
 *   KUASAR_FUZZ_SEED=… KUASAR_FUZZ_RUNS=… npx tap test/unit/ttrpc-fuzz.test.ts
 */
import t from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { decodeRequest, decodeResponse } from '#shared/ttrpc/envelope.ts'
import { FrameParser } from '#shared/ttrpc/frame.ts'
import { TtrpcServer, type Calls } from '#shared/ttrpc/index.ts'
import { DecodeError } from '#shared/ttrpc/protobuf.ts'
import { peerHandlers, peerService, type PeerTypes } from '../peer-go/service.ts'
import { bytesValue, envelopes, frame, rawClient, rawServer, request } from '../support/ttrpc-raw.ts'

const seed = Number(process.env['KUASAR_FUZZ_SEED'] ?? Math.floor(Math.random() * 2 ** 32))
/** How much of everything; 1 is a few seconds. */
const runs = Number(process.env['KUASAR_FUZZ_RUNS'] ?? 1)
t.setTimeout(60_000 * Math.max(1, runs))
t.comment(`KUASAR_FUZZ_SEED=${seed} KUASAR_FUZZ_RUNS=${runs}`)

/** Numbers that look random and come again with the same seed (an LCG of 2³² with its low bits thrown away). */
class Random {
  #state: number

  constructor(from: number) {
    this.#state = from >>> 0
  }

  /** A whole number from 0 to below `limit`. */
  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((this.#state / 2 ** 32) * limit)
  }

  pick<T>(items: readonly [T, ...T[]]): T {
    return items[this.below(items.length)] ?? items[0]
  }

  bytes(lengthMax: number): Buffer {
    return Buffer.from(Array.from({ length: this.below(lengthMax + 1) }, () => this.below(256)))
  }

  /** The same bytes with a few of them changed, cut out or doubled. */
  mutate(bytes: Buffer): Buffer {
    let out = Buffer.from(bytes)
    for (let i = this.below(4); i >= 0; i--) {
      const at = this.below(out.length + 1)
      const to = at + this.below(out.length - at + 1)
      const change = this.below(4)
      if (change === 0 && at < out.length) out[at] = this.pick([0, 1, 0x7f, 0x80, 0xff, this.below(256)])
      else if (change === 1) out = Buffer.concat([out.subarray(0, at), out.subarray(to)])
      else if (change === 2) out = Buffer.concat([out.subarray(0, to), out.subarray(at)])
      else if (change === 3) out = Buffer.concat([out.subarray(0, at), this.bytes(12), out.subarray(at)])
    }
    return out
  }
}

const random = new Random(seed)
const text = (length: number): string => random.bytes(length).toString('latin1')

function randomRequest(): Parameters<typeof envelopes.encodeRequest>[0] {
  return {
    service: random.pick([peerService.name, text(20)]),
    method: random.pick(['Echo', 'Sum', 'Count', 'Chat', 'Describe', text(10)]),
    payload: random.pick([bytesValue(random.bytes(300)), Buffer.from([8, random.below(100)]), random.bytes(20)]),
    timeout_nano: random.pick(['0', '0', '-1', '1', String(random.below(2 ** 31)), '9223372036854775807']),
    metadata: Array.from({ length: random.below(4) }, () => ({ key: text(8).toLowerCase(), value: text(20) })),
  }
}

function randomResponse(): Parameters<typeof envelopes.encodeResponse>[0] {
  const details = Array.from({ length: random.below(3) }, () => ({ type_url: text(20), value: random.bytes(30) }))
  return {
    payload: random.pick([bytesValue(random.bytes(300)), Buffer.from([8, random.below(100)]), random.bytes(20)]),
    status: random.pick([null, null, { code: random.below(20), message: text(30), details }]),
  }
}

t.test('frames', async (t) => {
  for (let run = 0; run < 3000 * runs; run++) {
    const bytesMax = random.pick([1, 50, 1000])
    const sent = Array.from({ length: 1 + random.below(8) }, () => ({
      id: random.below(2 ** 32),
      type: random.below(256),
      flags: random.below(256),
      data: random.bytes(random.pick([0, 1, 10, 60, 1500])),
    }))
    const stream = Buffer.concat(sent.map(({ id, type, flags, data }) => frame(id, type, flags, data)))
    const expected = sent.map(({ id, type, flags, data }) =>
      `${id} ${type} ${flags} ${data.length > bytesMax ? data.length : data.toString('hex')}`)
    const seen: string[] = []
    const parser = new FrameParser({
      frame: (id, type, flags, bytes, start, end) => {
        seen.push(`${id} ${type} ${flags} ${bytes.toString('hex', start, end)}`)
      },
      oversize: (id, type, flags, length) => seen.push(`${id} ${type} ${flags} ${length}`),
    }, bytesMax)
    for (let at = 0; at < stream.length;) {
      const to = at + 1 + random.below(random.pick([1, 15, 2000]))
      parser.push(stream.subarray(at, to))
      at = to
    }
    if (seen.join() !== expected.join()) t.same(seen, expected, `run ${run}`)
    if (parser.partial !== undefined) t.fail(`run ${run} ended inside a frame`)
  }
  t.pass('every cut gives the same frames')
})

t.test('envelopes', async (t) => {
  const outcomes = { decoded: 0, refused: 0 }
  const attempt = (run: number, bytes: Buffer): void => {
    const { length } = bytes
    for (const decode of [() => decodeRequest(bytes, 0, length, 100), () => decodeResponse(bytes, 0, length)]) {
      try {
        const { payloadStart, payloadEnd } = decode()
        const inside = payloadStart <= payloadEnd && payloadEnd <= length
        if (!inside) t.fail(`run ${run}: a payload out of bounds: ${bytes.toString('hex')}`)
        outcomes.decoded++
      } catch (error) {
        if (!(error instanceof DecodeError)) t.fail(`run ${run}: ${String(error)} for ${bytes.toString('hex')}`)
        outcomes.refused++
      }
    }
  }
  for (let run = 0; run < 5000 * runs; run++) {
    const valid = randomRequest()
    const bytes = envelopes.encodeRequest(valid)
    const request = decodeRequest(bytes, 0, bytes.length, 100)
    const seen = {
      service: request.service,
      method: request.method,
      payload: bytes.toString('hex', request.payloadStart, request.payloadEnd),
      pairs: Object.entries(request.metadata)
        .flatMap(([key, values]) => values.map((value) => `${key}=${value}`))
        .toSorted(),
    }
    const expected = {
      service: valid.service,
      method: valid.method,
      payload: Buffer.from(valid.payload ?? []).toString('hex'),
      pairs: (valid.metadata ?? []).map(({ key, value }) => `${key}=${value}`).toSorted(),
    }
    if (JSON.stringify(seen) !== JSON.stringify(expected)) t.same(seen, expected, `run ${run}`)
    const timeoutNano = Number(valid.timeout_nano)
    if (request.timeoutNano !== timeoutNano) t.equal(request.timeoutNano, timeoutNano, `run ${run}`)

    attempt(run, random.mutate(bytes))
    attempt(run, random.mutate(envelopes.encodeResponse(randomResponse())))
    attempt(run, random.bytes(40))
  }
  t.ok(outcomes.decoded > 100 && outcomes.refused > 100, `${outcomes.decoded} decoded, ${outcomes.refused} refused`)
})

/** A frame of a peer that knows the protocol and does not keep to it. */
function randomFrame(payload: () => Buffer): Buffer {
  const id = random.pick([1, 3, 5, 7, 9, 11, 2, 0, random.below(2 ** 32)])
  const type = random.pick([1, 1, 1, 2, 2, 3, 3, 3, 0, random.below(256)])
  const flags = random.pick([0, 0, 1, 2, 5, 6, random.below(256)])
  const some = random.bytes(50)
  const data = random.pick([payload(), payload(), random.mutate(payload()), Buffer.alloc(0), bytesValue(some), some])
  return frame(id, type, flags, random.below(200) === 0 ? Buffer.alloc(70_000) : data)
}

t.test('a server', async (t) => {
  const limits = { receivedFrameBytesMax: 65_536, streamQueueBytesMax: 20_000, streamStallMsMax: 5, heldBytesMax: 200_000 }
  const server = new TtrpcServer(limits).add(peerService, peerHandlers)
  for (let run = 0; run < 150 * runs; run++) {
    const link = await rawClient(server)
    for (let i = 0; i < 100; i++) {
      const bytes = randomFrame(() => envelopes.encodeRequest(randomRequest()))
      const cut = random.below(bytes.length)
      link.peer.send(bytes.subarray(0, cut))
      link.peer.send(bytes.subarray(cut))
    }
    // The whole of the last frame is in; the connection has to be as good as new.
    const id = 4_000_000_001
    link.peer.send(frame(id, 1, 0, request('Echo', Buffer.from('alive?'))))
    for (;;) {
      const answer = await link.peer.next()
      if (answer.id === id && answer.type === 2 && answer.data.includes('alive?')) break
    }
    if (random.below(2) === 0) link.peer.socket.write(random.bytes(30))
    link[Symbol.dispose]()
  }
  while (server.connections > 0) await new Promise(setImmediate)
  t.pass('it answers after everything')
  await server.close()
})

/** Makes some call, reads all of its answer, and says how it ended. */
async function callAny(calls: Calls<PeerTypes>): Promise<string> {
  const inputs = (async function* () {
    for (let i = random.below(3); i > 0; i--) yield { value: 5 }
  })()
  try {
    switch (random.pick(['Echo', 'Sum', 'Count', 'Chat'])) {
      case 'Sum':
        await calls.Sum(inputs)
        break
      case 'Count':
        for await (const _ of calls.Count({ value: 1 }));
        break
      case 'Chat':
        for await (const _ of calls.Chat((async function* () {})()));
        break
      default:
        await calls.Echo({ value: Buffer.from('x') })
    }
    return 'OK'
  } catch (error) {
    if (error instanceof RuntimeError) return error.code
    throw error
  }
}

t.test('a client', async (t) => {
  const codes = new Map<string, number>()
  for (let run = 0; run < 150 * runs; run++) {
    using link = await rawServer({ receivedFrameBytesMax: 65_536, streamQueueBytesMax: 20_000, streamStallMsMax: 5 })
    const pending = Array.from({ length: 6 }, () => callAny(link.calls))
    for (let i = 0; i < 60; i++) link.peer.send(randomFrame(() => envelopes.encodeResponse(randomResponse())))
    if (random.below(2) === 0) link.peer.send(random.bytes(30))
    link.peer.socket.end()
    for (const outcome of await Promise.all(pending)) codes.set(outcome, (codes.get(outcome) ?? 0) + 1)
    await link.client.closed
  }
  t.ok(codes.size > 3, `every call ends: ${[...codes].map(([code, count]) => `${count} ${code}`).join(', ')}`)
})
