/** One socket: bytes in become frames, frames out become bytes, and its end is noticed once. */
import type { Duplex } from 'node:stream'
import { explain, RuntimeError } from '../errors.ts'
import { FrameParser, frameTypeName, type FrameSink, type PartialFrame } from './frame.ts'
import type { Limits } from './limits.ts'
import { SendQueue } from './send-queue.ts'
import { threadCpuMs, type TimeShare } from './time-share.ts'

/** The half of the protocol that lives on a connection. */
export interface Endpoint extends FrameSink {
  /** The connection is over. `error` is undefined when it ended between two frames, or was closed here. */
  ended(error: RuntimeError | undefined): void
  /** The send queue is not crowded any more. */
  relieved(): void
}

export class Connection {
  readonly limits: Limits
  readonly sending: SendQueue
  /** Resolves when the connection is over, with what went wrong, if anything did. */
  readonly closed: Promise<RuntimeError | undefined>
  readonly #socket: Duplex
  readonly #parser: FrameParser
  readonly #endpoint: Endpoint
  readonly #share: TimeShare | undefined
  readonly #resolveClosed: (error: RuntimeError | undefined) => void
  readonly #holders = new Set<object>()
  #over = false

  constructor(socket: Duplex, limits: Limits, endpoint: Endpoint, share?: TimeShare) {
    const { promise, resolve } = Promise.withResolvers<RuntimeError | undefined>()
    this.closed = promise
    this.#resolveClosed = resolve
    this.limits = limits
    this.#socket = socket
    this.#endpoint = endpoint
    this.sending = new SendQueue(socket, limits, () => endpoint.relieved())
    this.#parser = new FrameParser(endpoint, limits.receivedFrameBytesMax)
    this.#share = share
  }

  /** Starts reading. Not in the constructor: the endpoint may not exist yet when that runs. */
  start(): void {
    const socket = this.#socket
    socket.on('error', (error) => this.#end(new RuntimeError('UNAVAILABLE', 'the connection failed', { cause: error })))
    socket.on('end', () => this.#end(undefined))
    socket.on('close', () => this.#end(undefined))
    if (socket.destroyed || socket.readableEnded) {
      process.nextTick(() => this.#end(undefined))
      return
    }
    socket.on('data', (chunk: Buffer) => this.#read(chunk))
    // A socket that someone paused before handing it over does not start to flow by itself.
    socket.resume()
    // Whoever is beyond its share stays so on its next connection.
    const restMs = this.#share?.spend(0, performance.now()) ?? 0
    if (restMs > 0) this.#rest(restMs)
  }

  get over(): boolean {
    return this.#over
  }

  /** Stops reading from the peer until every holder has released; what has been read is still handed on. */
  hold(holder: object): void {
    this.#holders.add(holder)
    this.#socket.pause()
  }

  release(holder: object): void {
    if (this.#holders.delete(holder) && this.#holders.size === 0 && !this.#over) this.#socket.resume()
  }

  /** Ends the connection from this side. Never a half-close: Go's server drops its answers at one. */
  close(error?: RuntimeError): void {
    this.#finish(error)
  }

  #read(chunk: Buffer): void {
    const startedMs = performance.now()
    const cpuMs = this.#share === undefined ? 0 : threadCpuMs()
    try {
      this.#parser.push(chunk)
    } catch (error) {
      this.#finish(new RuntimeError('INTERNAL', 'a frame could not be handled', { cause: error }))
    }
    const nowMs = performance.now()
    const restMs = this.#share?.spend(threadCpuMs() - cpuMs, nowMs) ?? 0
    if (restMs > 0) this.#rest(restMs)
    else if (nowMs - startedMs > this.limits.readMsMax) this.#yield()
  }

  /** Its peer has had more than its share of the process's time. */
  #rest(ms: number): void {
    this.hold(this)
    setTimeout(() => this.release(this), Math.ceil(ms)).unref()
  }

  /** Ends this connection's turn: Node reads a busy socket up to 32 times before it looks at anything else. */
  #yield(): void {
    this.hold(this)
    setImmediate(() => this.release(this))
  }

  #end(error: RuntimeError | undefined): void {
    if (this.#over) return
    const partial = this.#parser.partial
    this.#finish(partial === undefined ? error : cutOff(partial, error))
  }

  #finish(error: RuntimeError | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#parser.stop()
    this.sending.stop()
    this.#socket.destroy()
    this.#endpoint.ended(error)
    this.#resolveClosed(error)
  }
}

function cutOff(partial: PartialFrame, cause: RuntimeError | undefined): RuntimeError {
  const where = partial.header === undefined
    ? `${partial.receivedBytes} bytes into a frame's header`
    : `after ${partial.receivedBytes} of the ${partial.header.length} bytes of a ` +
      `${frameTypeName(partial.header.type)} on stream ${partial.header.id}`
  const why = cause === undefined ? 'the peer closed the connection' : explain(cause)
  return new RuntimeError('UNAVAILABLE', `${why}, ${where}`, { cause: cause?.cause })
}
