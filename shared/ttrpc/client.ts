/** The client: methods of a service as functions, many calls at once over one connection. */
import type { Duplex } from 'node:stream'
import { asRuntimeError, RuntimeError } from '../errors.ts'
import { SingleAnswerCall, StreamedAnswerCall, type ClientCall } from './client-call.ts'
import { Connection, type Endpoint } from './connection.ts'
import { timeoutNanoOf } from './deadline.ts'
import { encodeMetadata, encodeMethod, requestSize, writeRequest } from './envelope.ts'
import { isAsyncIterable } from './message-pump.ts'
import { frameFlag, frameType, noBytes } from './frame.ts'
import { resolveLimits, type Limits } from './limits.ts'
import type { CallKind, CallOptions, Calls, MethodDefinition, Service, ServiceTypes } from './method.ts'
import { kindOf, type CallReport, type ConnectionOptions } from './options.ts'
import { splitPath } from './service.ts'
import { abortError } from './status.ts'

/** A method, with what its requests have in common. */
export interface ClientMethod {
  readonly path: string
  readonly kind: CallKind
  readonly prefix: Buffer
  readonly definition: MethodDefinition<unknown, unknown>
}

/** Flags of the request that opens a call. "No data" beside "open" keeps Rust servers from seeing an empty message. */
const openingFlags: Readonly<Record<CallKind, number>> = {
  'unary': 0,
  'server-stream': frameFlag.remoteClosed,
  'client-stream': frameFlag.remoteOpen | frameFlag.noData,
  'bidi': frameFlag.remoteOpen | frameFlag.noData,
}

const streamIdMax = 0xffff_ffff

/** Calls over one connection, any number at once. When the connection ends so does the client: connect again, and make another. */
export class TtrpcClient implements Disposable {
  readonly #link: ClientLink

  /**
   * @param socket connected or connecting, and from now on this client's: it reads it, and destroys it at the end
   * @throws RuntimeError INVALID_ARGUMENT for an option that there is not, or a limit that is no number
   */
  constructor(socket: Duplex, options: ConnectionOptions = {}) {
    this.#link = new ClientLink(socket, options)
  }

  /** The methods of a service. Cheap calls, but make the object once: it encodes each method's names. */
  calls<T extends ServiceTypes>(service: Service<T>): Calls<T> {
    const calls: Record<string, unknown> = {}
    for (const [name, definition] of Object.entries(service.methods)) calls[name] = this.#link.caller(definition)
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `caller` does for each kind what `Calls` says
    return calls as Calls<T>
  }

  /** Resolves when the connection is over: with undefined after `close` or a peer that closed between two frames. */
  get closed(): Promise<RuntimeError | undefined> {
    return this.#link.connection.closed
  }

  /** Ends the connection at once. Pending calls fail with CANCELLED. */
  close(): void {
    this.#link.close()
  }

  /** The same, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** What client calls share: the connection, the stream ids, and who waits for which answer. */
export class ClientLink implements Endpoint {
  readonly connection: Connection
  readonly limits: Limits
  readonly onCall: ((report: CallReport) => void) | undefined
  readonly #pending = new Map<number, ClientCall>()
  #nextId = 1
  #closedHere = false
  #error: RuntimeError | undefined

  constructor(socket: Duplex, options: ConnectionOptions) {
    const { onCall, readShare, ...limits } = options
    this.onCall = onCall
    this.limits = resolveLimits(limits)
    this.connection = new Connection(socket, this.limits, this, readShare)
    this.connection.start()
  }

  /** The function behind one method. Which arguments it takes is in the types of `Calls`. */
  caller(definition: MethodDefinition<unknown, unknown>): (input: unknown, options?: CallOptions) => unknown {
    const { service, method } = splitPath(definition.path)
    const kind = kindOf(definition)
    const target: ClientMethod = { path: definition.path, kind, prefix: encodeMethod(service, method), definition }
    if (kind === 'unary' || kind === 'client-stream') {
      return (input, options) => {
        const call = new SingleAnswerCall(this, target)
        this.#open(target, call, input, options)
        return call.answer
      }
    }
    return (input, options) => {
      const call = new StreamedAnswerCall(this, target)
      this.#open(target, call, input, options)
      return call.answers
    }
  }

  close(): void {
    this.#closedHere = true
    this.connection.close()
  }

  /** The call is over: what still comes for its id is nobody's. */
  forget(id: number): void {
    this.#pending.delete(id)
  }

  /** True when no other call shares the connection. */
  get alone(): boolean {
    return this.#pending.size === 1
  }

  frame(id: number, type: number, flags: number, bytes: Buffer, start: number, end: number): void {
    const call = this.#pending.get(id)
    if (call === undefined) return
    if (type === frameType.response) call.response(bytes, start, end)
    else if (type === frameType.data) call.data(flags, bytes, start, end)
  }

  oversize(id: number, _type: number, _flags: number, length: number): void {
    const call = this.#pending.get(id)
    call?.fail(new RuntimeError(
      'RESOURCE_EXHAUSTED',
      `${call.path}: an answer of ${length} bytes is above the limit of ${this.limits.receivedFrameBytesMax}`,
    ))
  }

  ended(error: RuntimeError | undefined): void {
    this.#error = error
    for (const call of this.#pending.values()) call.lost(this.#endedError(call.path))
  }

  relieved(): void {}

  #open(method: ClientMethod, call: ClientCall, input: unknown, options: CallOptions | undefined): void {
    try {
      this.#send(method, call, input, options)
    } catch (thrown) {
      call.fail(asRuntimeError(thrown))
    }
  }

  /** Everything that can go wrong is checked before the stream id is taken: ids go out in order, without gaps. */
  #send(method: ClientMethod, call: ClientCall, input: unknown, options: CallOptions | undefined): void {
    const { path } = method
    if (this.connection.over) throw this.#endedError(path)
    if (options?.signal?.aborted === true) throw abortError(path, options.signal.reason)
    const timeoutMs = checkTimeout(path, options?.timeoutMs)
    if (this.#pending.size >= this.limits.concurrentCallsMax) {
      const message = `${path}: ${this.#pending.size} calls are in flight, which is the limit`
      throw new RuntimeError('RESOURCE_EXHAUSTED', message)
    }
    const streamed = method.definition.requestStream
    const messages = streamed ? checkMessages(path, input) : undefined
    const payload = streamed ? noBytes : call.encode(input)
    const metadata = encodeMetadata(options?.metadata)
    const timeoutNano = timeoutMs === undefined ? 0 : timeoutNanoOf(timeoutMs)
    const size = requestSize(method.prefix, payload, timeoutNano, metadata)
    this.#checkSize(path, size)

    const id = this.#takeId(path)
    const { sending } = this.connection
    const at = sending.reserve(size, id, frameType.request, openingFlags[method.kind])
    writeRequest(sending.block, at, method.prefix, payload, timeoutNano, metadata)
    this.#pending.set(id, call)
    call.opened(id, timeoutMs, options?.signal)
    if (messages !== undefined) call.sendMessages(messages)
  }

  #checkSize(path: string, size: number): void {
    if (size > this.limits.sentFrameBytesMax) {
      const limit = this.limits.sentFrameBytesMax
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${path}: a request of ${size} bytes is above the limit of ${limit}`)
    }
    if (!this.connection.sending.fits(size)) {
      const queued = this.connection.sending.queuedBytes
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${path}: the peer has not read the ${queued} bytes queued for it`)
    }
  }

  #takeId(path: string): number {
    const id = this.#nextId
    if (id > streamIdMax) {
      throw new RuntimeError('UNAVAILABLE', `${path}: the connection's stream ids are used up; connect again`)
    }
    this.#nextId += 2
    return id
  }

  #endedError(path: string): RuntimeError {
    if (this.#closedHere) return new RuntimeError('CANCELLED', `${path}: the connection was closed here`)
    const cause = this.#error
    return new RuntimeError('UNAVAILABLE', `${path}: the connection is over`, { cause: cause ?? 'the peer closed it' })
  }
}

function checkMessages(path: string, input: unknown): AsyncIterable<unknown> {
  if (isAsyncIterable(input)) return input
  throw new RuntimeError('INVALID_ARGUMENT', `${path}: the requests must be an async iterable`)
}

/** @throws RuntimeError for a timeout that has passed or is no number */
function checkTimeout(path: string, timeoutMs: number | undefined): number | undefined {
  if (timeoutMs === undefined || timeoutMs === Number.POSITIVE_INFINITY) return undefined
  if (Number.isNaN(timeoutMs)) throw new RuntimeError('INVALID_ARGUMENT', `${path}: the timeout is not a number`)
  if (timeoutMs <= 0) throw new RuntimeError('DEADLINE_EXCEEDED', `${path}: a timeout of ${timeoutMs} ms has passed`)
  return timeoutMs
}
