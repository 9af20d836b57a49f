/** One connection of a server: which calls are active on it, and what each frame means for them. */
import type { Duplex } from 'node:stream'
import { RuntimeError } from '../errors.ts'
import { Connection, type Endpoint } from './connection.ts'
import { Deadline } from './deadline.ts'
import { decodeRequest, type RequestEnvelope } from './envelope.ts'
import { frameFlag, frameType } from './frame.ts'
import { tell } from './options.ts'
import type { ServerShared } from './server.ts'
import { ServerCall } from './server-call.ts'
import { encodeError } from './status.ts'

export class ServerLink implements Endpoint {
  readonly connection: Connection
  readonly shared: ServerShared
  /** Calls whose answer is not complete, by stream id. */
  readonly #active = new Map<number, ServerCall>()
  readonly #ended: () => void
  /** Handlers that have not returned; a call may be over before its handler is. */
  #running = 0
  /** Bytes of requests being handled and of messages not yet read. */
  #heldBytes = 0
  #closing = false

  constructor(socket: Duplex, shared: ServerShared, ended: () => void) {
    this.shared = shared
    this.#ended = ended
    this.connection = new Connection(socket, shared.limits, this, shared.readShare)
  }

  start(): void {
    this.connection.start()
  }

  /** Answers every call with UNAVAILABLE, waits for that to be written, and ends the connection. */
  async close(): Promise<void> {
    this.#closing = true
    for (const call of this.#active.values()) call.fail(new RuntimeError('UNAVAILABLE', 'the server is closing'))
    const { promise: written, resolve } = Promise.withResolvers<void>()
    const deadline = new Deadline(this.shared.limits.closeMsMax, resolve)
    const check = (): void => {
      if (this.connection.over || this.connection.sending.queuedBytes === 0) resolve()
      else this.connection.sending.wait(check)
    }
    check()
    await written
    deadline.cancel()
    this.connection.close()
  }

  frame(id: number, type: number, flags: number, bytes: Buffer, start: number, end: number): void {
    if (type === frameType.request) this.#request(id, flags, bytes, start, end)
    else if (type === frameType.data) this.#active.get(id)?.data(flags, bytes, start, end)
    // Other types are for later versions of the protocol. Data for a call that is over was sent before its sender knew.
    if (this.connection.sending.crowded) this.connection.hold(this)
  }

  oversize(id: number, type: number, _flags: number, length: number): void {
    const limit = this.shared.limits.receivedFrameBytesMax
    const error = new RuntimeError('RESOURCE_EXHAUSTED', `a frame of ${length} bytes is above the limit of ${limit}`)
    if (type === frameType.request) this.refuse(id, error)
    else if (type === frameType.data) this.#active.get(id)?.fail(error)
  }

  relieved(): void {
    this.connection.release(this)
  }

  ended(error: RuntimeError | undefined): void {
    const pending = [...this.#active.values()]
    if (pending.length > 0) {
      const lost = new RuntimeError('UNAVAILABLE', 'the connection is over', { cause: error })
      for (const call of pending) call.lost(lost)
    }
    if (error !== undefined) {
      const paths = [...new Set(pending.map((call) => call.path))].join(', ')
      const unanswered = `${pending.length} calls not answered: ${paths}`
      const message = pending.length === 0 ? error.message : `${error.message}; ${unanswered}`
      tell(this.shared.onError, new RuntimeError(error.code, message, { cause: error.cause }))
    }
    this.#ended()
  }

  /** The call has been answered, or no one waits for its answer. */
  forget(id: number): void {
    this.#active.delete(id)
  }

  /** A handler runs from here on, to `returned`. */
  started(): void {
    this.#running++
  }

  returned(): void {
    this.#running--
  }

  /** So many bytes more are held, or less. */
  hold(bytes: number): void {
    this.#heldBytes += bytes
  }


  /** True when the connection may hold so many bytes more. */
  hasRoom(bytes: number): boolean {
    return this.#heldBytes + bytes <= this.shared.limits.heldBytesMax
  }

  /** Answers with an error. An active call of the same id ends with it: its caller has been answered now. */
  refuse(id: number, error: RuntimeError): void {
    const call = this.#active.get(id)
    if (call !== undefined) call.fail(error)
    else {
      this.connection.sending.send(id, frameType.response, 0, encodeError(error, this.shared.limits))
      tell(this.shared.onRefused, error)
    }
  }

  #request(id: number, flags: number, bytes: Buffer, start: number, end: number): void {
    if (id % 2 === 0) {
      this.refuse(id, new RuntimeError('INVALID_ARGUMENT', `stream id ${id} is even; a client's are odd`))
      return
    }
    // Rust's clients send ids out of order, so any id will do that is free.
    if (this.#active.has(id)) {
      this.refuse(id, new RuntimeError('INVALID_ARGUMENT', `stream id ${id} is in use`))
      return
    }
    const call = this.#admit(id, bytes, start, end)
    if (call instanceof RuntimeError) {
      this.refuse(id, call)
      return
    }
    this.#active.set(id, call)
    call.start(bytes, (flags & frameFlag.remoteOpen) !== 0)
  }

  /** The call that a request asks for, or why there is none. */
  #admit(id: number, bytes: Buffer, start: number, end: number): ServerCall | RuntimeError {
    const { concurrentCallsMax, metadataPairsMax } = this.shared.limits
    let request: RequestEnvelope
    try {
      request = decodeRequest(bytes, start, end, metadataPairsMax)
    } catch (cause) {
      return new RuntimeError('INVALID_ARGUMENT', 'the request is malformed', { cause })
    }
    const methods = this.shared.services.get(request.service)
    if (methods === undefined) {
      return new RuntimeError('UNIMPLEMENTED', `service ${clip(request.service)} is not served here`)
    }
    const method = methods.get(request.method)
    if (method === undefined) {
      return new RuntimeError('UNIMPLEMENTED', `service ${request.service} has no method ${clip(request.method)} here`)
    }
    const { path } = method
    if (this.#closing) return new RuntimeError('UNAVAILABLE', `${path}: the server is closing`)
    if (this.#running >= concurrentCallsMax) {
      return new RuntimeError('RESOURCE_EXHAUSTED', `${path}: ${this.#running} calls are in flight, which is the limit`)
    }
    if (!this.hasRoom(end - start)) {
      const held = this.#heldBytes
      return new RuntimeError('RESOURCE_EXHAUSTED', `${path}: this connection holds ${held} bytes of requests`)
    }
    return new ServerCall(this, method, id, request)
  }
}

/** A name from the peer, short enough for a message. */
function clip(name: string): string {
  return name.length <= 200 ? `"${name}"` : `"${name.slice(0, 200)}…"`
}
