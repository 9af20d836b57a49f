/**
 * What a process reads: the write end of a pipe (or a pty), filled by at most one writer at a time.
 *
 * A writer may send only what it was given credit for, and gets new credit only for what the pipe took; a process that
 * never reads costs one window. The end of the input is the writer's half-close. A writer that merely vanishes (a
 * containerd restart) leaves the pipe open for the next.
 *
 * It is always the writer who ends the stream. What it sends when nobody reads any more is taken and dropped: containerd
 * (2.1 to 2.4-beta, SendStream) spins on a stream that ends while it waits for credit.
 */
import { PassThrough, type Writable } from 'node:stream'
import { asRuntimeError, RuntimeError } from '#shared/errors.ts'
import { WINDOW_BYTES } from './window.ts'

/** New credit is given in steps, so that a byte typed does not cost a message back. */
const CREDIT_STEP_BYTES = WINDOW_BYTES / 2

export interface InputPolicy {
  /**
   * How long CloseIO waits, from the last byte on, for data still under way on the stream's own connection: the two
   * travel apart, and CloseIO may overtake.
   */
  readonly overtakenMs: number
  /** How long an input that lost its writer stays open; undefined: for ever, as containerd comes back for it. */
  readonly abandonedMs: number | undefined
}

const NOTHING_TO_WAIT_FOR: InputPolicy = { overtakenMs: 0, abandonedMs: undefined }

export class Input {
  /** Resolves when the process's end of it is gone. Never rejects. */
  readonly discarded: Promise<void>
  readonly #discarded: () => void
  readonly #sink: Writable
  readonly #policy: InputPolicy
  /** A terminal has no end of input: closing it would hang up on the process. */
  readonly #terminal: boolean
  #writer: InputWriter | undefined
  #ended = false
  #writing = false
  #closing: NodeJS.Timeout | undefined
  #abandoned: NodeJS.Timeout | undefined

  constructor(sink: Writable, policy: InputPolicy, terminal: boolean) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.discarded = promise
    this.#discarded = resolve
    this.#sink = sink
    this.#policy = policy
    this.#terminal = terminal
    sink.on('error', () => this.#stop())
    sink.on('close', () => this.#stop())
  }

  /** Of a process that never was: takes and drops. */
  static none(): Input {
    const input = new Input(new PassThrough(), NOTHING_TO_WAIT_FOR, false)
    input.discard()
    return input
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Makes the caller the writer. A writer that was there before gets an ABORTED error. */
  attach(signal: AbortSignal): InputWriter {
    clearTimeout(this.#abandoned)
    this.#writer?.preempt()
    const writer: InputWriter = new InputWriter(signal, {
      write: (bytes) => this.#write(bytes),
      end: () => this.end(),
      detached: () => this.#detached(writer),
    })
    this.#writer = writer
    return writer
  }

  /** CloseIO: the end of the input, as soon as what is on its way has come. */
  closeSoon(): void {
    if (this.#ended) return
    if (this.#writer === undefined) return this.end()
    clearTimeout(this.#closing)
    const closing = setTimeout(() => {
      // After the next round of reading: data may have come while the agent was not scheduled.
      setImmediate(() => {
        if (this.#closing !== closing) return
        if (this.#writing) this.closeSoon()
        else this.end()
      })
    }, this.#policy.overtakenMs)
    closing.unref()
    this.#closing = closing
  }

  /** The process sees the end of its input after all that was written. Idempotent. */
  end(): void {
    if (this.#ended) return
    if (!this.#terminal) this.#sink.end()
    this.#stop()
  }

  discard(): void {
    this.#sink.destroy()
    this.#stop()
    this.#discarded()
  }

  async #write(bytes: Buffer): Promise<void> {
    if (this.#ended) return
    if (this.#closing !== undefined) this.closeSoon()
    if (this.#sink.write(bytes)) return
    this.#writing = true
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#sink.once('drain', resolve)
    this.#sink.once('close', resolve)
    await promise
    this.#sink.off('drain', resolve)
    this.#sink.off('close', resolve)
    this.#writing = false
  }

  #detached(writer: InputWriter): void {
    if (this.#writer !== writer) return
    this.#writer = undefined
    if (this.#ended) return
    if (this.#closing !== undefined) return this.end()
    if (this.#policy.abandonedMs === undefined) return
    this.#abandoned = setTimeout(() => this.end(), this.#policy.abandonedMs)
    this.#abandoned.unref()
  }

  #stop(): void {
    clearTimeout(this.#closing)
    clearTimeout(this.#abandoned)
    this.#ended = true
  }
}

interface InputSide {
  write(bytes: Buffer): Promise<void>
  end(): void
  detached(): void
}

/** One connection's hold on an input. */
export class InputWriter {
  readonly #signal: AbortSignal
  readonly #input: InputSide
  #credit = 0
  #owed = WINDOW_BYTES
  #wake: (() => void) | undefined
  #failure: Error | undefined
  #finished = false

  constructor(signal: AbortSignal, input: InputSide) {
    this.#signal = signal
    this.#input = input
    signal.addEventListener('abort', () => this.wake(), { once: true })
  }

  /** The next credit to send to the writer, in bytes; undefined when it has closed its side. */
  async nextCredit(): Promise<number | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure
      this.#signal.throwIfAborted()
      if (this.#finished) return undefined
      if (this.#owed >= CREDIT_STEP_BYTES) {
        const bytes = this.#owed
        this.#owed = 0
        this.#credit += bytes
        return bytes
      }
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      await promise
    }
  }

  /** Resolves once the process's pipe took `bytes`, or will never read them. Throws RESOURCE_EXHAUSTED beyond the credit given. */
  async write(bytes: Buffer): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    if (bytes.length > this.#credit) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${bytes.length} bytes of input came with a window of ${this.#credit}`)
    }
    this.#credit -= bytes.length
    await this.#input.write(bytes)
    this.#owed += bytes.length
    this.wake()
  }

  /** The writer closed its side: the end of the input. */
  end(): void {
    if (this.#failure !== undefined) return
    this.#finished = true
    this.#input.end()
    this.wake()
  }

  /** The connection is gone; the input stays. */
  detach(): void {
    this.#input.detached()
  }

  preempt(): void {
    this.fail(new RuntimeError('ABORTED', 'another writer took this input over'))
  }

  /** `nextCredit` and `write` throw from now on. */
  fail(error: unknown): void {
    this.#failure ??= asRuntimeError(error)
    this.wake()
  }

  wake(): void {
    this.#wake?.()
    this.#wake = undefined
  }
}
