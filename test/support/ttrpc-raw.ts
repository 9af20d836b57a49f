/** A ttrpc peer that sends whatever bytes it is told to, and shows the frames it gets. */
import { once } from 'node:events'
import net from 'node:net'
import { loadSync } from '@grpc/proto-loader'
import { serviceOf, TtrpcClient, type Calls, type ConnectionOptions, type TtrpcServer } from '#shared/ttrpc/index.ts'
import { socketFolder } from '../peer-go/go.ts'
import { peerService, type PeerTypes } from '../peer-go/service.ts'

export interface RawStatus {
  code: number
  message: string
  details: { type_url: string; value: Uint8Array }[]
}

interface RawRequest {
  service: string
  method: string
  payload: Uint8Array
  timeout_nano: string | number
  metadata: { key: string; value: string }[]
}

interface RawResponse {
  status: RawStatus | null
  payload: Uint8Array
}

interface EnvelopeMethod {
  readonly kind: 'unary'
  readonly in: Partial<RawRequest>
  readonly inRead: RawRequest
  readonly out: Partial<RawResponse>
  readonly outRead: RawResponse
}

/** protobufjs's codec of the envelopes. */
export const envelopes = loadEnvelopes()

function loadEnvelopes() {
  const file = `${import.meta.dirname}/ttrpc-envelope.proto`
  const service = loadSync(file, { keepCase: true, longs: String, defaults: true })['kuasar.test.v1.Envelopes']
  const { Call } = serviceOf<{ Call: EnvelopeMethod }>(service).methods
  // oxlint-disable typescript/no-unsafe-type-assertion -- what the .proto file says
  return {
    encodeRequest: (message: Partial<RawRequest>): Buffer => Call.requestSerialize(message),
    decodeRequest: (bytes: Buffer) => Call.requestDeserialize(bytes) as RawRequest,
    encodeResponse: (message: Partial<RawResponse>): Buffer => Call.responseSerialize(message),
    decodeResponse: (bytes: Buffer) => Call.responseDeserialize(bytes) as RawResponse,
  }
  // oxlint-enable typescript/no-unsafe-type-assertion
}

export interface RawFrame {
  readonly id: number
  readonly type: number
  readonly flags: number
  readonly data: Buffer
}

/** A frame's bytes. `length` may lie. */
export function frame(
  id: number,
  type: number,
  flags: number,
  data: Uint8Array = Buffer.alloc(0),
  length = data.length,
): Buffer {
  const header = Buffer.alloc(10)
  header.writeUInt32BE(length, 0)
  header.writeUInt32BE(id, 4)
  header.writeUInt8(type, 8)
  header.writeUInt8(flags, 9)
  return Buffer.concat([header, data])
}

/** An encoded request to a method of the Peer service. */
export function request(method: keyof PeerTypes, value: Uint8Array, more: Partial<RawRequest> = {}): Buffer {
  return envelopes.encodeRequest({ service: peerService.name, method, payload: bytesValue(value), ...more })
}

/** A google.protobuf.BytesValue (or, of text, a StringValue). */
export function bytesValue(value: Uint8Array): Buffer {
  return value.length === 0 ? Buffer.alloc(0) : peerService.methods.Echo.requestSerialize({ value })
}

/** One end of a connection, as bytes. */
export class RawPeer {
  readonly socket: net.Socket
  readonly frames: RawFrame[] = []
  #buffered = Buffer.alloc(0)
  #changed = Promise.withResolvers<void>()
  ended = false

  constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', () => {})
    socket.on('close', () => {
      this.ended = true
      this.#notify()
    })
  }

  send(...bytes: Uint8Array[]): void {
    this.socket.write(Buffer.concat(bytes))
  }

  /** The next frame not yet asked for. */
  async next(): Promise<RawFrame> {
    for (;;) {
      const first = this.frames.shift()
      if (first !== undefined) return first
      if (this.ended) throw new Error('the connection ended before the next frame')
      await this.#changed.promise
    }
  }

  /** The next frame, which is a Response: its id and its envelope. */
  async response(): Promise<RawResponse & { id: number; code: number; message: string }> {
    const { id, type, data } = await this.next()
    if (type !== 2) throw new Error(`expected a Response, got type ${type} on stream ${id}`)
    const envelope = envelopes.decodeResponse(data)
    return { id, code: envelope.status?.code ?? 0, message: envelope.status?.message ?? '', ...envelope }
  }

  /** The next frame, which is a Request. */
  async request(): Promise<RawRequest & { id: number; flags: number }> {
    const { id, type, flags, data } = await this.next()
    if (type !== 1) throw new Error(`expected a Request, got type ${type} on stream ${id}`)
    return { id, flags, ...envelopes.decodeRequest(data) }
  }

  async end(): Promise<void> {
    while (!this.ended) await this.#changed.promise
  }

  #take(chunk: Buffer): void {
    this.#buffered = Buffer.concat([this.#buffered, chunk])
    while (this.#buffered.length >= 10) {
      const length = this.#buffered.readUInt32BE(0)
      if (this.#buffered.length < 10 + length) break
      const id = this.#buffered.readUInt32BE(4)
      const type = this.#buffered.readUInt8(8)
      const flags = this.#buffered.readUInt8(9)
      this.frames.push({ id, type, flags, data: this.#buffered.subarray(10, 10 + length) })
      this.#buffered = this.#buffered.subarray(10 + length)
    }
    this.#notify()
  }

  #notify(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers<void>()
  }
}

/** Two connected unix sockets that are gone with the scope. */
export async function socketPair(): Promise<Disposable & { a: net.Socket; b: net.Socket }> {
  using folder = socketFolder()
  const listener = net.createServer().listen(folder.path('s'))
  await once(listener, 'listening')
  const accepted = new Promise<net.Socket>((resolve) => listener.once('connection', resolve))
  const a = net.connect(folder.path('s'))
  const b = await accepted
  listener.close()
  return {
    a,
    b,
    [Symbol.dispose]() {
      a.destroy()
      b.destroy()
    },
  }
}

/** A raw client of a server. */
export async function rawClient(server: TtrpcServer): Promise<Disposable & { peer: RawPeer }> {
  const pair = await socketPair()
  server.accept(pair.b)
  return { peer: new RawPeer(pair.a), [Symbol.dispose]: () => pair[Symbol.dispose]() }
}

/** A client of a raw server. */
export async function rawServer(
  options?: ConnectionOptions,
): Promise<Disposable & { peer: RawPeer; client: TtrpcClient; calls: Calls<PeerTypes> }> {
  const pair = await socketPair()
  const client = new TtrpcClient(pair.a, options)
  const dispose = (): void => {
    client.close()
    pair[Symbol.dispose]()
  }
  return { peer: new RawPeer(pair.b), client, calls: client.calls(peerService), [Symbol.dispose]: dispose }
}
