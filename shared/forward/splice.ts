/**
 * Joins a TCP connection to its carrier until both of its directions have ended, each in its own time.
 *
 *   open ──► one direction ended ──► both ended ──(guest: all taken, says done)──► closed
 *     └────────────┴── either connection fails, or the peer speaks nonsense ──► both reset
 *
 * Whoever reads too slowly holds the other end up, by the credit he does not give back. Each direction holds at most
 * WINDOW_BYTES and one read (64 KiB) in each half, and what the kernels' sockets hold; whatever the peer does: on either
 * connection there is one write of each kind at a time.
 */
import type { Socket } from 'node:net'
import { ByteQueue } from '../bytes.ts'
import { RuntimeError } from '../errors.ts'
import { threadCpuMs, type TimeShare } from '../ttrpc/time-share.ts'
import { FrameParser, header, WINDOW_BYTES } from './frame.ts'
import { reset } from './reset.ts'

/** Credit is given back in portions, in bytes; a smaller one is refused. */
const CREDIT_BYTES_MIN = WINDOW_BYTES / 4

/**
 * Frames of one read after which everything else in the process has its turn: Node reads a busy socket up to 32 times before it
 * looks at anything else, and a read may be 13 000 frames.
 */
const FRAMES_TURN_MAX = 1024

/**
 * A peer that closed both directions looks like one that closed the one: only asking tells. Loopback's sockets answer
 * at once, and a closed one is forgotten after tcp_fin_timeout (60 s). In ms.
 */
const KEEPALIVE_MS = 15_000

/** How long the host may take to close after it was told that all is done, in ms. */
const LINGER_MS_MAX = 10_000

export type Side = 'host' | 'guest'

/**
 * Both sockets are the splice's from here on, and `plain` is gone when it settles; the carrier is `hangUp`'s by then.
 * `plain` must allow half-open connections; either may be paused. `share` is what all that comes on the carrier is taken off.
 * Errors: UNAVAILABLE when either connection broke, INVALID_ARGUMENT when the peer's frames make no sense.
 */
export function splice(plain: Socket, carrier: Socket, side: Side, hangUp: (carrier: Socket) => void, share?: TimeShare): Promise<void> {
  return new Splice(plain, carrier, side, hangUp, share).closed
}

class Splice {
  readonly closed: Promise<void>
  readonly #plain: Socket
  readonly #carrier: Socket
  readonly #side: Side
  readonly #hangUp: (carrier: Socket) => void
  readonly #share: TimeShare | undefined
  readonly #settle: PromiseWithResolvers<void>
  /** What may be sent, and what may come. */
  #credit = WINDOW_BYTES
  #allowed = WINDOW_BYTES
  /** Read and not yet sent, for want of credit or of a peer that reads. */
  #held: Buffer | undefined
  /** Received, and not yet written. */
  readonly #received = new ByteQueue()
  /** Taken and not yet given back. */
  #taken = 0
  /** Under way to the kernel: a frame of data, what was received, a credit. */
  #sending = false
  #delivering = false
  #giving = false
  /** Of the plain connection: its end was read, and its end was sent; all for it was received, and handed to the kernel. */
  #read = false
  #sent = false
  #ended = false
  #written = false
  #over = false
  #linger: NodeJS.Timeout | undefined

  constructor(plain: Socket, carrier: Socket, side: Side, hangUp: (carrier: Socket) => void, share?: TimeShare) {
    this.#plain = plain
    this.#carrier = carrier
    this.#side = side
    this.#hangUp = hangUp
    this.#share = share
    this.#settle = Promise.withResolvers<void>()
    this.closed = this.#settle.promise
    this.#watchPlain()
    this.#watchCarrier()
    if (plain.destroyed || carrier.destroyed) this.#fail('a connection was over before it was joined')
  }

  #watchPlain(): void {
    const plain = this.#plain
    plain.setNoDelay(true)
    plain.setKeepAlive(true, KEEPALIVE_MS)
    plain.on('data', (chunk: Buffer) => {
      this.#held = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk])
      this.#send()
    })
    plain.on('end', () => {
      this.#read = true
      this.#send()
    })
    plain.on('finish', () => {
      this.#written = true
      this.#check()
    })
    plain.on('error', (error) => this.#fail('the connection failed', error))
    plain.on('close', () => {
      if (!this.#read || !this.#written) this.#fail('the connection closed')
    })
    plain.resume()
  }

  #watchCarrier(): void {
    const carrier = this.#carrier
    const parser = new FrameParser({
      data: (bytes) => this.#receive(bytes),
      credit: (bytes) => {
        if (bytes < CREDIT_BYTES_MIN) throw new RuntimeError('INVALID_ARGUMENT', `a credit of ${bytes} bytes: expected ${CREDIT_BYTES_MIN} at least`)
        this.#credit += bytes
        if (this.#credit > WINDOW_BYTES) throw new RuntimeError('INVALID_ARGUMENT', `a credit of ${bytes} bytes is more than was sent`)
        this.#send()
      },
      end: () => {
        this.#ended = true
        this.#deliver()
      },
      done: () => {
        if (this.#side === 'guest' || !this.#sent || !this.#ended) throw new RuntimeError('INVALID_ARGUMENT', 'a forward was done before both of its ends')
        this.#finish()
      },
    })
    carrier.on('data', (chunk: Buffer) => {
      if (this.#over) return
      const cpuMs = this.#share === undefined ? 0 : threadCpuMs()
      let frames = 0
      try {
        frames = parser.push(chunk)
      } catch (error) {
        this.#fail('the peer broke the protocol', error)
      }
      const restMs = this.#share?.spend(threadCpuMs() - cpuMs, performance.now()) ?? 0
      if (restMs > 0 || frames > FRAMES_TURN_MAX) this.#rest(restMs)
    })
    carrier.on('error', (error) => this.#carrierEnded(error))
    for (const event of ['end', 'close']) carrier.on(event, () => this.#carrierEnded())
    carrier.resume()
  }

  /** The peer has had its turn, or more than its share of the process's time. */
  #rest(ms: number): void {
    if (this.#over) return
    this.#carrier.pause()
    const resume = () => {
      if (!this.#over) this.#carrier.resume()
    }
    if (ms > 0) setTimeout(resume, Math.ceil(ms)).unref()
    else setImmediate(resume)
  }

  /**
   * As much of what was read as there is credit for; then its end, if that was read too. One frame at a time: a peer that gives
   * credit for what it leaves unread holds the sender up, as one that gives none.
   */
  #send(): void {
    if (this.#held !== undefined && this.#credit > 0 && !this.#sending) {
      const piece = this.#held.subarray(0, this.#credit)
      this.#held = piece.length < this.#held.length ? this.#held.subarray(piece.length) : undefined
      this.#credit -= piece.length
      this.#sending = true
      this.#carrier.cork()
      this.#carrier.write(header('data', piece.length))
      this.#carrier.write(piece, () => {
        this.#sending = false
        if (!this.#over) this.#send()
      })
      this.#carrier.uncork()
    }
    if (this.#held !== undefined) this.#plain.pause()
    else if (!this.#read) this.#plain.resume()
    else if (!this.#sent) {
      this.#sent = true
      this.#carrier.write(header('end'))
      this.#check()
    }
  }

  #receive(bytes: Buffer): void {
    this.#allowed -= bytes.length
    if (this.#allowed < 0) throw new RuntimeError('INVALID_ARGUMENT', `a forward sent more than the ${WINDOW_BYTES} bytes it may`)
    this.#received.append(bytes)
    this.#deliver()
  }

  /** One write at a time, whatever the frames were: what waits is bytes, and not a write for each. Then the end, if that came too. */
  #deliver(): void {
    if (this.#delivering || this.#plain.destroyed) return
    const bytes = this.#received.take(WINDOW_BYTES)
    if (bytes.length === 0) {
      if (this.#ended) this.#plain.end()
      return
    }
    this.#delivering = true
    this.#plain.write(bytes, () => {
      this.#delivering = false
      this.#taken += bytes.length
      this.#giveBack()
      this.#deliver()
    })
  }

  /** One credit at a time: a peer that does not read gets no more. */
  #giveBack(): void {
    if (this.#giving || this.#taken < CREDIT_BYTES_MIN || this.#over) return
    const bytes = this.#taken
    this.#taken = 0
    this.#allowed += bytes
    this.#giving = true
    this.#carrier.write(header('credit', bytes), () => {
      this.#giving = false
      this.#giveBack()
    })
  }

  /** The guest says when all is done; the host waits for that. */
  #check(): void {
    if (this.#side === 'host' || this.#over || !this.#sent || !this.#written || this.#linger !== undefined) return
    this.#carrier.write(header('done'))
    this.#linger = setTimeout(() => this.#finish(), LINGER_MS_MAX)
  }

  #carrierEnded(cause?: Error): void {
    if (this.#linger === undefined) this.#fail('the carrier closed', cause)
    else this.#finish()
  }

  #finish(): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#linger)
    this.#hangUp(this.#carrier)
    // It closes by itself once both directions have ended, and its reader may take its time.
    if (this.#plain.closed) this.#settle.resolve()
    else this.#plain.once('close', () => this.#settle.resolve())
  }

  #fail(why: string, cause?: unknown): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#linger)
    reset(this.#plain)
    this.#hangUp(this.#carrier)
    const code = cause instanceof RuntimeError ? cause.code : 'UNAVAILABLE'
    this.#settle.reject(new RuntimeError(code, why, { cause }))
  }
}
