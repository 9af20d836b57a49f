/** The service of peer.proto, typed, and our end of it: the same behaviour as serve.go's. */
import { setTimeout as sleep } from 'node:timers/promises'
import { loadSync } from '@grpc/proto-loader'
import { RuntimeError, statusName } from '#shared/errors.ts'
import { serviceOf, type CallContext, type Handlers, type Service } from '#shared/ttrpc/index.ts'

/** google.protobuf.BytesValue and its kin: `W` as given, `R` as received. */
interface Method<Kind, InW, InR, OutW, OutR> {
  readonly kind: Kind
  readonly in: { value?: InW }
  readonly inRead: { value: InR }
  readonly out: { value?: OutW }
  readonly outRead: { value: OutR }
}

type Integer = number | string

export type PeerTypes = {
  Echo: Method<'unary', Uint8Array, Buffer, Uint8Array, Buffer>
  Describe: Method<'unary', string, string, string, string>
  Fill: Method<'unary', Integer, string, Uint8Array, Buffer>
  Sum: Method<'client-stream', Integer, string, Integer, string>
  Count: Method<'server-stream', Integer, string, Integer, string>
  Chat: Method<'bidi', Uint8Array, Buffer, Uint8Array, Buffer>
}

export const peerService: Service<PeerTypes> = loadPeer()

function loadPeer(): Service<PeerTypes> {
  const definition = loadSync(`${import.meta.dirname}/peer.proto`, { longs: String, defaults: true })
  return serviceOf<PeerTypes>(definition['kuasar.test.v1.Peer'])
}

export const peerHandlers: Handlers<PeerTypes> = {
  async Echo(request, context) {
    await command(request.value, context)
    return request
  },
  Describe(_request, context) {
    const parts = Object.entries(context.metadata).map(([key, values]) => `${key}=${values.join(',')}`).sort()
    if (context.deadlineMs !== undefined) parts.push(`deadline=${Math.round(context.deadlineMs - Date.now())}`)
    return { value: parts.join(';') }
  },
  Fill: (request) => ({ value: Buffer.alloc(Number(request.value)) }),
  async Sum(requests) {
    let total = 0n
    for await (const request of requests) total += BigInt(request.value)
    return { value: String(total) }
  },
  async *Count(request) {
    const last = Math.abs(Number(request.value))
    for (let i = 1; i <= last; i++) yield { value: i }
    if (Number(request.value) < 0) throw new RuntimeError('ABORTED', `counted to ${last}`)
  },
  async *Chat(requests, context) {
    for await (const request of requests) {
      await command(request.value, context)
      yield request
    }
  },
}

/** Does what an input asks for beside being echoed. */
async function command(input: Buffer, context: CallContext): Promise<void> {
  if (input[0] !== 0x73) return
  const [, kind, number, message = ''] = /^(status|slow):(\d+):?(.*)$/su.exec(input.toString()) ?? []
  if (kind === 'slow') await sleep(Number(number), undefined, { signal: context.signal })
  if (kind === 'status') throw new RuntimeError(statusName(Number(number)), message, { details: [about(message)] })
}

/** A google.protobuf.StringValue in an Any, as serve.go adds to its statuses. */
function about(message: string): { type_url: string; value: Buffer } {
  const text = Buffer.from(`about ${message}`)
  const value = Buffer.from([0x0a, text.length, ...text])
  return { type_url: 'type.googleapis.com/google.protobuf.StringValue', value }
}
