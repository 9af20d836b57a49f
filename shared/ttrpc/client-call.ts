/** Calls in flight at the client: those answered once, and those answered by a stream. */
import { asRuntimeError, explain, RuntimeError, type StatusName } from '../errors.ts'
import type { ClientLink, ClientMethod } from './client.ts'
import { Deadline } from './deadline.ts'
import { decodeResponse, type ResponseEnvelope } from './envelope.ts'
import { frameFlag, frameType, halfClose, keepBytes, noBytes } from './frame.ts'
import { MessagePump } from './message-pump.ts'
import { tell } from './options.ts'
import { checkFields } from './protobuf.ts'
import { markHandled, ReceiveQueue } from './receive-queue.ts'
import { Stall } from './stall.ts'
import { abortError, statusError } from './status.ts'


export abstract class ClientCall {
  readonly path: string
  protected readonly link: ClientLink
  protected readonly method: ClientMethod
  protected over = false
  #id = 0
  #deadline: Deadline | undefined
  #signal: AbortSignal | undefined
  #aborted: (() => void) | undefined
  #pump: MessagePump | undefined
  readonly #startedMs: number

  constructor(link: ClientLink, method: ClientMethod) {
    this.link = link
    this.method = method
    this.path = method.path
    this.#startedMs = link.onCall === undefined ? 0 : performance.now()
  }

  /** A Response for this call. */
  abstract response(bytes: Buffer, start: number, end: number): void
  /** A Data frame for this call. */
  abstract data(flags: number, bytes: Buffer, start: number, end: number): void
  /** Ends the call here, at once. */
  abstract fail(error: RuntimeError): void
  /** The connection is over. */
  abstract lost(error: RuntimeError): void

  /** The request is on its way under this id. */
  opened(id: number, timeoutMs: number | undefined, signal: AbortSignal | undefined): void {
    this.#id = id
    if (timeoutMs !== undefined) {
      this.#deadline = new Deadline(timeoutMs, () => {
        this.fail(new RuntimeError('DEADLINE_EXCEEDED', `${this.path}: no answer within ${timeoutMs} ms`))
      })
    }
    if (signal === undefined) return
    this.#signal = signal
    this.#aborted = () => this.fail(abortError(this.path, signal.reason))
    signal.addEventListener('abort', this.#aborted, { once: true })
  }

  /** A request or one of its messages. */
  encode(message: unknown): Buffer {
    try {
      return this.method.definition.requestSerialize(message)
    } catch (cause) {
      throw new RuntimeError('INTERNAL', `${this.path}: the request could not be encoded`, { cause })
    }
  }

  /** Sends the request stream: its messages, then the half-close. A source that throws ends the call. */
  sendMessages(source: AsyncIterable<unknown>): void {
    const { sending } = this.link.connection
    const pump = new MessagePump(sending, this.link.limits, this.#id, source, (message) => this.encode(message))
    this.#pump = pump
    pump.run().then(
      (complete) => {
        if (complete && !this.over) sending.send(this.#id, frameType.data, halfClose, noBytes)
        return undefined
      },
      (thrown: unknown) => {
        if (thrown instanceof RuntimeError) this.fail(thrown)
        else this.fail(new RuntimeError('CANCELLED', `${this.path}: the request stream failed`, { cause: thrown }))
      },
    )
  }

  /** Marks the call over. False when it was already. */
  protected settle(error: RuntimeError | undefined): boolean {
    if (this.over) return false
    this.over = true
    this.link.forget(this.#id)
    this.#deadline?.cancel()
    if (this.#aborted !== undefined) this.#signal?.removeEventListener('abort', this.#aborted)
    this.#pump?.stop()
    if (this.link.onCall !== undefined) this.#report(error?.code ?? 'OK', error === undefined ? '' : explain(error))
    return true
  }

  /** The envelope of a Response; a malformed one or an error status fails the call and is undefined. */
  protected open(bytes: Buffer, start: number, end: number): ResponseEnvelope | RuntimeError {
    try {
      const envelope = decodeResponse(bytes, start, end)
      return statusError(envelope.status) ?? envelope
    } catch (cause) {
      return new RuntimeError('INTERNAL', `${this.path}: the answer is malformed`, { cause })
    }
  }

  protected decode(bytes: Buffer): unknown {
    try {
      checkFields(bytes, this.link.limits.receivedFieldsMax)
      return this.method.definition.responseDeserialize(bytes)
    } catch (cause) {
      throw new RuntimeError('INTERNAL', `${this.path}: the answer could not be decoded`, { cause })
    }
  }

  #report(code: StatusName, message: string): void {
    const durationMs = performance.now() - this.#startedMs
    tell(this.link.onCall, { path: this.path, kind: this.method.kind, code, message, durationMs })
  }
}

/** A unary or client-streaming call: one Response ends it. */
export class SingleAnswerCall extends ClientCall {
  readonly answer: Promise<unknown>
  #resolve!: (answer: unknown) => void
  #reject!: (error: RuntimeError) => void

  constructor(link: ClientLink, method: ClientMethod) {
    super(link, method)
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  response(bytes: Buffer, start: number, end: number): void {
    const envelope = this.open(bytes, start, end)
    if (envelope instanceof RuntimeError) {
      this.fail(envelope)
      return
    }
    const { payloadStart, payloadEnd } = envelope
    let answer: unknown
    try {
      answer = this.decode(payloadStart < 0 ? noBytes : keepBytes(bytes, payloadStart, payloadEnd))
    } catch (thrown) {
      this.fail(asRuntimeError(thrown))
      return
    }
    if (this.settle(undefined)) this.#resolve(answer)
  }

  data(): void {
    this.fail(new RuntimeError('INTERNAL', `${this.path}: the peer answered with a stream, which this method has not`))
  }

  fail(error: RuntimeError): void {
    if (!this.settle(error)) return
    this.#reject(error)
    // A caller may look at the answer later, or never: a peer that goes away must not end the process.
    markHandled(this.answer)
  }

  lost(error: RuntimeError): void {
    this.fail(error)
  }
}

/** A server-streaming or bidirectional call: Data frames, ended by a half-close or a Response. */
export class StreamedAnswerCall extends ClientCall {
  readonly answers: ReceiveQueue<unknown>
  readonly #stall: Stall

  constructor(link: ClientLink, method: ClientMethod) {
    super(link, method)
    this.answers = new ReceiveQueue((bytes) => this.decode(bytes), link.limits.streamQueueBytesMax, {
      taken: () => this.#stall.update(this.answers.heldBytes),
      abandoned: () => void this.#end(new RuntimeError('CANCELLED', `${this.path}: the reader wanted no more`)),
      malformed: (error) => void this.#end(error),
    })
    this.#stall = new Stall(link.connection, () => link.alone, () => this.#unread())
  }

  data(flags: number, bytes: Buffer, start: number, end: number): void {
    if ((flags & frameFlag.noData) === 0) this.#message(keepBytes(bytes, start, end))
    if ((flags & frameFlag.remoteClosed) !== 0 && this.#end(undefined)) this.answers.end()
  }

  response(bytes: Buffer, start: number, end: number): void {
    const envelope = this.open(bytes, start, end)
    if (envelope instanceof RuntimeError) {
      this.lost(envelope)
      return
    }
    // Go takes the payload of an OK response for a last message.
    if (envelope.payloadStart >= 0) this.#message(keepBytes(bytes, envelope.payloadStart, envelope.payloadEnd))
    if (this.#end(undefined)) this.answers.end()
  }

  fail(error: RuntimeError): void {
    if (this.#end(error)) this.answers.discard(error)
  }

  lost(error: RuntimeError): void {
    if (this.#end(error)) this.answers.fail(error)
  }

  #message(bytes: Buffer): void {
    if (this.answers.push(bytes) < 0) this.#unread()
    else this.#stall.update(this.answers.heldBytes)
  }

  #unread(): void {
    const held = this.answers.heldBytes
    this.fail(new RuntimeError('RESOURCE_EXHAUSTED', `${this.path}: the stream's reader left ${held} bytes unread`))
  }

  #end(error: RuntimeError | undefined): boolean {
    this.#stall.end()
    return this.settle(error)
  }
}
