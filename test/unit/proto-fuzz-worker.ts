/**
 * Decodes hostile bytes as every message that crosses the guest's border, in either direction. Runs as a worker with
 * a small heap, so that a message which decodes to too much ends it. Posts what it did, or the first input that broke
 * a rule.
 */
import { isDeepStrictEqual } from 'node:util'
import { parentPort, workerData } from 'node:worker_threads'
import { isMessage } from '#shared/rpc/definition.ts'
import { guestDescriptor } from '#shared/rpc/gen/guest-descriptor.ts'
import { guestMessageBytesMax } from '#shared/rpc/bounds.ts'
import { loadJson } from '#shared/rpc/json.ts'

export interface FuzzTask {
  readonly seed: number
  /** Inputs per message. */
  readonly rounds: number
}

export interface FuzzReport {
  readonly messages: number
  readonly decoded: number
  readonly refused: number
  readonly broken?: string
}

/** mulberry32: the same inputs for the same seed. */
function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

type Random = (below: number) => number

const noise = (next: Random, length: number) => Buffer.from(Array.from({ length }, () => next(256)))

/** Something shaped like a message: fields of plausible numbers with every wire type, now and then cut short. */
function fields(next: Random, depth = 0): Buffer {
  const parts: Buffer[] = []
  for (let count = next(6); count > 0; count--) {
    const wireType = [0, 1, 2, 2, 2, 5, 3, 4][next(8)] ?? 0
    parts.push(Buffer.from([((next(12) + 1) << 3) | wireType]))
    if (wireType === 0) parts.push(noise(next, next(11)), Buffer.from([next(128)]))
    if (wireType === 1) parts.push(noise(next, 8))
    if (wireType === 5) parts.push(noise(next, 4))
    if (wireType === 2) {
      const body = depth < 4 && next(2) === 0 ? fields(next, depth + 1) : noise(next, next(24))
      parts.push(Buffer.from([Math.min(127, next(20) === 0 ? next(128) : body.length)]), body)
    }
  }
  const whole = Buffer.concat(parts)
  return next(5) === 0 ? whole.subarray(0, next(whole.length + 1)) : whole
}

/** Large messages made of one thing: empty elements of field n, groups, endless varints, deep nesting. */
function* floods(length: number): Iterable<Buffer> {
  for (let field = 1; field <= 8; field++) {
    yield Buffer.alloc(length, Buffer.from([(field << 3) | 2, 0]))
    yield Buffer.alloc(length, Buffer.from([(field << 3) | 3]))
  }
  yield Buffer.alloc(length, 0xff)
  yield Buffer.alloc(length, 0)
  let nested = Buffer.alloc(0)
  while (nested.length < 100) nested = Buffer.from([0x0a, nested.length, ...nested])
  yield nested
}

function fuzz({ seed, rounds }: FuzzTask): FuzzReport {
  const next = random(seed)
  let [decoded, refused] = [0, 0]
  const messages = Object.entries(loadJson(guestDescriptor)).filter(([, message]) => isMessage(message))
  for (const [name, message] of messages) {
    if (!isMessage(message)) continue
    const attempt = (input: Buffer): string | undefined => {
      let value: object
      try {
        value = message.deserialize(input)
      } catch (error) {
        refused++
        return error instanceof Error ? undefined : `threw ${String(error)}`
      }
      decoded++
      // protobuf.js's writer takes far more than its reader; nobody sends a flood back.
      if (input.length > echoedBytesMax) return undefined
      // What was understood can be said again, and then means the same.
      const again = message.deserialize(message.serialize(value))
      return isDeepStrictEqual(again, value) ? undefined : 'changes when it is encoded and decoded again'
    }
    const inputs = [...floods(toHost.test(name) ? guestMessageBytesMax : guestMessageBytesMax / 16)]
    for (let round = 0; round < rounds; round++) inputs.push(round % 2 === 0 ? noise(next, next(96)) : fields(next))
    for (const input of inputs) {
      try {
        const broken = attempt(input)
        if (broken !== undefined) return { messages: messages.length, decoded, refused, broken: `${name} of ${shown(input)} ${broken}` }
      } catch (error) {
        return { messages: messages.length, decoded, refused, broken: `${name} of ${shown(input)}: ${String(error)}` }
      }
    }
  }
  return { messages: messages.length, decoded, refused }
}

/** What the sandboxer decodes: these get floods as large as it lets through. */
const toHost = /^kuasar\.host\.v1\.\w+Request$|^kuasar\.agent\.v1\.\w+Response$|^io\.containerd\.cgroups\.v2\.IOStat$/

const echoedBytesMax = 4096

const shown = (input: Buffer) => `${input.length} bytes, ${input.subarray(0, 128).toString('hex')}`

// A worker's port has no origin to name, which is what the rule asks for in browsers.
// oxlint-disable-next-line unicorn/require-post-message-target-origin
parentPort?.postMessage(fuzz(workerData))
