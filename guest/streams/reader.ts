/** One connection's hold on an output. */
import type { ByteQueue } from '#shared/bytes.ts'
import { asRuntimeError, RuntimeError } from '#shared/errors.ts'
import { SendWindow } from './window.ts'

/** The largest Data message containerd takes without losing count of its window (containerd issue 14085). */
export const DATA_BYTES_MAX = 32 * 1024

/** What a reader may do with the output it reads. */
export interface OutputSide {
  take(max: number): Buffer
  ended(): boolean
  progress(): void
  confirmed(): void
  detached(): void
}

export class OutputReader {
  readonly #window: SendWindow
  readonly #output: OutputSide
  readonly #signal: AbortSignal
  #wake: (() => void) | undefined
  #failure: Error | undefined
  #detached = false
  #preempted = false

  constructor(settledMs: number, output: OutputSide, signal: AbortSignal) {
    this.#window = new SendWindow(settledMs)
    this.#output = output
    this.#signal = signal
    signal.addEventListener('abort', () => this.wake(), { once: true })
  }

  /** A WindowUpdate came from the reader. */
  grant(bytes: number): void {
    this.#window.grant(bytes)
    this.#output.progress()
    this.wake()
  }

  /** The next bytes, DATA_BYTES_MAX at most, as soon as there are some and credit for them; undefined at the end. */
  async next(): Promise<Buffer | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure
      this.#signal.throwIfAborted()
      const bytes = this.#output.take(this.#window.credit)
      if (bytes.length > 0) {
        this.#window.send(bytes, performance.now())
        this.#output.progress()
        return bytes
      }
      if (this.#output.ended()) return undefined
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      await promise
    }
  }

  /** The reader has closed its side after the end of the output: it has consumed all of it. */
  confirm(): void {
    this.#window.confirm()
    this.#output.confirmed()
  }

  /** The connection is gone. What the reader may not have is kept for the next. Idempotent. */
  detach(): void {
    if (this.#detached) return
    this.#detached = true
    this.#output.detached()
  }

  /** Another reader has come; when this one went was not heard. */
  preempt(): void {
    this.#preempted = true
    this.fail(new RuntimeError('ABORTED', 'another reader took this output over'))
  }

  /** `next` throws from now on. */
  fail(error: unknown): void {
    this.#failure ??= asRuntimeError(error)
    this.wake()
  }

  wake(): void {
    this.#wake?.()
    this.#wake = undefined
  }

  takeUnconfirmed(): ByteQueue {
    return this.#window.takeUnconfirmed(this.#preempted ? undefined : performance.now())
  }
}
