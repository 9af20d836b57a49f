/**
 * A program that has installed ttrpc-ts (test/integration/packages.test.ts): a client and a server of the package, every kind of
 * call, an error with details, a cancel, a deadline. What it asserts of types the compiler holds.
 */
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { duplexPair } from 'node:stream'
import { loadSync } from '@grpc/proto-loader'
import * as ttrpc from 'ttrpc-ts'
import { type CallContext, type CallReport, type Calls, type Handlers, RuntimeError, ServedService, serviceOf, TimeShare, TtrpcClient, TtrpcServer } from 'ttrpc-ts'

type Message = { in: { value?: number }; inRead: { value: number }; out: { value?: number }; outRead: { value: number } }
type CounterTypes = {
  Double: Message & { kind: 'unary' }
  Sum: Message & { kind: 'client-stream' }
  Count: Message & { kind: 'server-stream' }
  Negate: Message & { kind: 'bidi' }
}

type IsAny<T> = 0 extends 1 & T ? true : false
type Answer = Awaited<ReturnType<Calls<CounterTypes>['Double']>>
type Element<T> = T extends AsyncIterable<infer E> ? E : never
const leaks: readonly false[] = [
  false satisfies IsAny<Answer>,
  false satisfies IsAny<Answer['value']>,
  false satisfies IsAny<Element<ReturnType<Calls<CounterTypes>['Count']>>>,
  false satisfies IsAny<Parameters<Calls<CounterTypes>['Negate']>[0]>,
  false satisfies IsAny<Parameters<NonNullable<Handlers<CounterTypes>['Sum']>>[0]>,
  false satisfies IsAny<CallContext['metadata'][string]>,
  false satisfies IsAny<ServedService[keyof ServedService]>,
  false satisfies IsAny<Awaited<TtrpcClient['closed']>>,
  false satisfies IsAny<ConstructorParameters<typeof TtrpcServer>[0]>,
]
assert.equal(leaks.length, 9)

const counter = serviceOf<CounterTypes>(loadSync('counter.proto', { defaults: true })['example.Counter'])
const handlers: Handlers<CounterTypes> = {
  async Double({ value }, { signal, deadlineMs, metadata }) {
    if (value < 0) throw new RuntimeError('OUT_OF_RANGE', `${value} is negative`, { details: [{ type_url: 'example/Number', value: Buffer.from('-') }] })
    if (metadata['wait'] === undefined) return { value: value * 2 }
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
    throw new RuntimeError('ABORTED', `${deadlineMs}`)
  },
  async Sum(numbers) {
    let sum = 0
    for await (const { value } of numbers) sum += value
    return { value: sum }
  },
  async *Count({ value }) {
    for (let i = 1; i <= value; i++) yield { value: i }
  },
  async *Negate(numbers) {
    for await (const { value } of numbers) yield { value: -value }
  },
}

async function* numbers(...values: number[]): AsyncGenerator<{ value: number }> {
  for (const value of values) yield { value }
}

async function collect(stream: AsyncIterable<{ value: number }>): Promise<number[]> {
  const values: number[] = []
  for await (const { value } of stream) values.push(value)
  return values
}

const reports: CallReport[] = []
await using server = new TtrpcServer({ onError: (error: Error) => assert.fail(error), heldBytesMax: undefined })
server.serve(ServedService.of(counter, handlers))
const [near, far] = duplexPair()
server.accept(far)
using client = new TtrpcClient(near, { onCall: (report) => reports.push(report), readShare: new TimeShare(1), streamStallMsMax: 500 })
const calls = client.calls(counter)

assert.deepEqual(await calls.Double({ value: 21 }), { value: 42 })
assert.deepEqual(await calls.Double({}), { value: 0 }, 'what is left out has its default')
assert.deepEqual(await calls.Sum(numbers(1, 2, 3)), { value: 6 })
assert.deepEqual(await collect(calls.Count({ value: 3 })), [1, 2, 3])
assert.deepEqual(await collect(calls.Negate(numbers(4, 5))), [-4, -5])
for await (const { value } of calls.Count({ value: 1_000_000 })) if (value === 2) break

await assert.rejects(calls.Double({ value: -1 }), (error: unknown) => {
  assert(error instanceof RuntimeError)
  const { code, message, details } = error
  assert.deepEqual({ code, message, details }, { code: 'OUT_OF_RANGE', message: '-1 is negative', details: [{ type_url: 'example/Number', value: Buffer.from('-') }] })
  return true
})
const aborter = new AbortController()
const aborted = calls.Double({}, { signal: aborter.signal, metadata: { wait: ['yes'] } })
aborter.abort()
await assert.rejects(aborted, { name: 'RuntimeError', code: 'CANCELLED' })
await assert.rejects(calls.Double({}, { timeoutMs: 20, metadata: { wait: ['yes'] } }), { name: 'RuntimeError', code: 'DEADLINE_EXCEEDED' })
assert.throws(() => server.add(counter, {}), { code: 'ALREADY_EXISTS' })
assert.throws(() => serviceOf(loadSync('counter.proto')['example.Nothing']), { code: 'INVALID_ARGUMENT' })

// @ts-expect-error -- no such field
await calls.Double({ valu: 1 })
// @ts-expect-error -- no such method
assert.equal(calls.Halve, undefined)
// @ts-expect-error -- a message where a stream is wanted
await assert.rejects(calls.Sum({ value: 1 }), { code: 'INVALID_ARGUMENT' })
// @ts-expect-error -- the kinds of calls are four
type Wrong = Calls<{ Double: Message & { kind: 'both' } }>
// @ts-expect-error -- made by `of`
assert.ok(new ServedService(counter, handlers))
// @ts-expect-error -- and by nothing else
assert.throws(() => server.serve({ name: 'example.Counter' }), TypeError)

assert.equal(server.connections, 1)
client.close()
assert.equal(await client.closed, undefined)
await assert.rejects(calls.Double({}), { code: 'CANCELLED' })
assert.deepEqual([...new Set(reports.map(({ code }) => code))], ['OK', 'CANCELLED', 'OUT_OF_RANGE', 'DEADLINE_EXCEEDED', 'INVALID_ARGUMENT'])

assert.deepEqual(Object.keys(ttrpc).toSorted(), ['RuntimeError', 'ServedService', 'TimeShare', 'TtrpcClient', 'TtrpcServer', 'defaultLimits', 'serviceOf'])
assert.equal(createRequire(import.meta.url)('ttrpc-ts').TtrpcClient, TtrpcClient, 'a CommonJS module has the same')
const inside = 'ttrpc-ts/lib/ttrpc/client.js'
await assert.rejects(import(inside), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' })
console.log('ttrpc-ts works')
