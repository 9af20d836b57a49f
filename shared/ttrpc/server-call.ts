/** One call at the server: its input on the way to the handler, and the handler's answer on the way to the caller. */
import { explain, RuntimeError } from '../errors.ts'
import { Deadline } from './deadline.ts'
import { responseSize, writeResponse, type RequestEnvelope } from './envelope.ts'
import { frameFlag, frameType, halfClose, keepBytes, noBytes } from './frame.ts'
import { isAsyncIterable, MessagePump } from './message-pump.ts'
import type { CallContext, Metadata } from './method.ts'
import { tell } from './options.ts'
import { checkFields } from './protobuf.ts'
import type { ReceiveQueue } from './receive-queue.ts'
import { RequestStream } from './request-stream.ts'
import type { ServedMethod } from './server.ts'
import type { ServerLink } from './server-link.ts'
import { encodeError, thrownError } from './status.ts'

/** Why the signal of a call that was answered is aborted: one for all, since an error's stack costs more than the rest. */
const callOver = new RuntimeError('CANCELLED', 'the call is over')

/** A promise, of this realm or another, or of a library. */
const isThenable = (output: unknown): output is PromiseLike<unknown> =>
  output instanceof Promise || (typeof output === 'object' && output !== null && 'then' in output && typeof output.then === 'function')

export class ServerCall implements CallContext {
  readonly path: string
  readonly metadata: Metadata
  deadlineMs: number | undefined
  readonly #link: ServerLink
  readonly #method: ServedMethod
  readonly #id: number
  readonly #request: RequestEnvelope
  readonly #startedMs: number
  #requestBytes = 0
  #deadline: Deadline | undefined
  #controller: AbortController | undefined
  #input: RequestStream | undefined
  #pump: MessagePump | undefined
  /** Set while an answer waits for room in the send queue. */
  #retry: (() => void) | undefined
  #over = false
  #error: RuntimeError | undefined

  constructor(link: ServerLink, method: ServedMethod, id: number, request: RequestEnvelope) {
    this.path = method.path
    this.metadata = request.metadata
    this.#link = link
    this.#method = method
    this.#id = id
    this.#request = request
    this.#startedMs = link.shared.onCall === undefined ? 0 : performance.now()
  }

  /** Made when a handler asks for it: most do not. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    if (this.#over) this.#controller.abort(this.#error ?? callOver)
    return this.#controller.signal
  }

  /** Runs the handler. `bytes` holds the request's payload; `open` says whether Data frames may follow. */
  start(bytes: Buffer, open: boolean): void {
    const { timeoutNano, payloadStart, payloadEnd } = this.#request
    if (timeoutNano < 0) {
      this.fail(new RuntimeError('DEADLINE_EXCEEDED', `${this.path}: the deadline had passed when the call came in`))
      return
    }
    if (timeoutNano > 0) this.#arm(timeoutNano / 1e6)
    const payload = keepBytes(bytes, payloadStart, payloadEnd)
    const streamed = this.#method.definition.requestStream
    this.#requestBytes = streamed ? 0 : payload.length
    this.#link.started()
    this.#link.hold(this.#requestBytes)
    try {
      const input = streamed ? this.#openInput(payload, open) : this.#decode(payload)
      // A first message may be more than a stream may hold.
      if (this.#over) this.#returned()
      else this.#handle(input)
    } catch (thrown) {
      this.#thrown(thrown)
    }
  }

  /** A Data frame for this call. */
  data(flags: number, bytes: Buffer, start: number, end: number): void {
    const message = (flags & frameFlag.noData) === 0
    if (this.#input !== undefined) {
      if (message) this.#input.message(keepBytes(bytes, start, end))
      if ((flags & frameFlag.remoteClosed) !== 0) this.#input.close()
    } else if (message) {
      this.fail(new RuntimeError('INVALID_ARGUMENT', `${this.path} takes one request, and got a stream's message`))
    }
  }

  /** Ends the call with an error for both sides. */
  fail(error: RuntimeError): void {
    if (this.#over) return
    const { connection, shared } = this.#link
    connection.sending.send(this.#id, frameType.response, 0, encodeError(error, shared.limits))
    this.#input?.over(error)
    this.#finish(error)
  }

  /** The connection is over: no one is there to be answered. */
  lost(error: RuntimeError): void {
    if (this.#over) return
    this.#input?.lost(error)
    this.#finish(error)
  }

  #arm(timeoutMs: number): void {
    this.deadlineMs = Date.now() + timeoutMs
    this.#deadline = new Deadline(timeoutMs, () => {
      this.fail(new RuntimeError('DEADLINE_EXCEEDED', `${this.path}: not done within the caller's ${timeoutMs} ms`))
    })
  }

  #openInput(payload: Buffer, open: boolean): ReceiveQueue<unknown> {
    const input = new RequestStream(this.#link, this.path, (bytes) => this.#decode(bytes), (error) => this.fail(error))
    this.#input = input
    // An empty first payload is how Go opens a stream, not an empty message.
    if (payload.length > 0) input.message(payload)
    if (!open) input.close()
    return input.queue
  }

  #decode(bytes: Buffer): unknown {
    try {
      checkFields(bytes, this.#link.shared.limits.receivedFieldsMax)
      return this.#method.definition.requestDeserialize(bytes)
    } catch (cause) {
      throw new RuntimeError('INVALID_ARGUMENT', `${this.path}: the request could not be decoded`, { cause })
    }
  }

  #handle(input: unknown): void {
    const output = this.#method.handler(input, this)
    if (this.#method.definition.responseStream) this.#stream(output)
    else if (isThenable(output)) {
      output.then((value: unknown) => this.#answer(value), (thrown: unknown) => this.#thrown(thrown))
    } else this.#answer(output)
  }

  /** The handler of a single answer returned. */
  #answer(value: unknown): void {
    if (this.#over) {
      this.#returned()
      return
    }
    let payload: Buffer
    try {
      payload = this.#encode(value)
    } catch (thrown) {
      this.#thrown(thrown)
      return
    }
    this.#respond(payload)
  }

  /** Queues the answer, now or when there is room for it. */
  #respond(payload: Buffer): void {
    const { sending } = this.#link.connection
    const size = responseSize(payload)
    if (!sending.fits(size)) {
      this.#retry = () => {
        if (!this.#over) this.#respond(payload)
      }
      sending.wait(this.#retry)
      return
    }
    this.#retry = undefined
    const at = sending.reserve(size, this.#id, frameType.response, 0)
    writeResponse(sending.block, at, payload)
    this.#input?.over(undefined)
    this.#finish(undefined)
    this.#returned()
  }

  /** The handler of a streamed answer returned: its messages are pulled from here on. */
  #stream(output: unknown): void {
    if (this.#over) {
      // The handler ended its own call: by closing the server, for one.
      this.#returned()
      return
    }
    if (!isAsyncIterable(output)) {
      throw new RuntimeError('INTERNAL', `${this.path}: the handler returned no async iterable`)
    }
    const { connection, shared } = this.#link
    const pump = new MessagePump(connection.sending, shared.limits, this.#id, output, (value) => this.#encode(value))
    this.#pump = pump
    pump.run().then(
      (complete) => {
        if (complete) this.#endStream()
        return this.#returned()
      },
      (thrown: unknown) => this.#thrown(thrown),
    )
  }

  #endStream(): void {
    if (this.#over) return
    this.#link.connection.sending.send(this.#id, frameType.data, halfClose, noBytes)
    this.#input?.over(undefined)
    this.#finish(undefined)
  }

  #encode(value: unknown): Buffer {
    let bytes: Buffer
    try {
      bytes = this.#method.definition.responseSerialize(value)
    } catch (cause) {
      throw new RuntimeError('INTERNAL', `${this.path}: the answer could not be encoded`, { cause })
    }
    const { sentFrameBytesMax } = this.#link.shared.limits
    const size = this.#method.definition.responseStream ? bytes.length : responseSize(bytes)
    if (size <= sentFrameBytesMax) return bytes
    const message = `${this.path}: an answer of ${size} bytes is above the limit of ${sentFrameBytesMax}`
    throw new RuntimeError('RESOURCE_EXHAUSTED', message)
  }

  /** The handler threw, now or after its call was over. */
  #thrown(thrown: unknown): void {
    const error = thrownError(thrown)
    // The caller hears the message. Where an unexpected error comes from is in its stack, which stays here.
    if (error !== thrown && error.code === 'INTERNAL' && error.cause instanceof Error) tell(this.#link.shared.onError, error.cause)
    this.fail(error)
    this.#returned()
  }

  #finish(error: RuntimeError | undefined): void {
    this.#over = true
    this.#error = error
    this.#link.forget(this.#id)
    this.#deadline?.cancel()
    this.#pump?.stop()
    this.#controller?.abort(error ?? callOver)
    if (this.#retry !== undefined) {
      this.#link.connection.sending.forget(this.#retry)
      this.#retry = undefined
      this.#returned()
    }
    if (this.#link.shared.onCall !== undefined) this.#report(error)
  }

  /** The handler is done, and so is its answer. */
  #returned(): void {
    this.#link.returned()
    this.#link.hold(-this.#requestBytes)
  }

  #report(error: RuntimeError | undefined): void {
    const { path } = this
    const { kind } = this.#method
    const durationMs = performance.now() - this.#startedMs
    const message = error === undefined ? '' : explain(error)
    tell(this.#link.shared.onCall, { path, kind, code: error?.code ?? 'OK', message, durationMs })
  }
}
