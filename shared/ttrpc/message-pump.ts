/** The sending half of a stream: pulls messages from their source as fast as the connection takes them. */
import { RuntimeError } from '../errors.ts'
import { frameType } from './frame.ts'
import type { Limits } from './limits.ts'
import type { SendQueue } from './send-queue.ts'

export class MessagePump {
  readonly #queue: SendQueue
  readonly #limits: Limits
  readonly #id: number
  readonly #source: AsyncIterator<unknown>
  readonly #encode: (message: unknown) => Uint8Array
  readonly #wake: () => void
  #waiting: (() => void) | undefined
  #stopped = false

  constructor(
    queue: SendQueue,
    limits: Limits,
    id: number,
    source: AsyncIterable<unknown>,
    encode: (message: unknown) => Uint8Array,
  ) {
    this.#queue = queue
    this.#limits = limits
    this.#id = id
    this.#source = source[Symbol.asyncIterator]()
    this.#encode = encode
    this.#wake = () => {
      const resume = this.#waiting
      this.#waiting = undefined
      resume?.()
    }
  }

  /**
   * Sends every message as a Data frame. Resolves with true when the source is at its end, with false after `stop`.
   * @throws what the source throws, and RESOURCE_EXHAUSTED for a message larger than a frame.
   */
  async run(): Promise<boolean> {
    for (;;) {
      while (this.#queue.crowded && !this.#stopped) await this.#room()
      if (this.#stopped) return false
      const next = await this.#source.next()
      if (this.#isStopped()) return false
      if (next.done === true) return true
      try {
        await this.#send(this.#encode(next.value))
      } catch (error) {
        this.stop()
        throw error
      }
    }
  }

  /** The call is over: nothing more is sent, and the source is told so. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    this.#queue.forget(this.#wake)
    this.#wake()
    void this.#dismiss()
  }

  /** A generator runs its `finally`, if need be when what it waits for has come. It has no one left to report to. */
  async #dismiss(): Promise<void> {
    try {
      await this.#source.return?.()
    } catch {
      // The call is over.
    }
  }

  async #send(message: Uint8Array): Promise<void> {
    if (message.length > this.#limits.sentFrameBytesMax) {
      throw new RuntimeError(
        'RESOURCE_EXHAUSTED',
        `a message of ${message.length} bytes is above the limit of ${this.#limits.sentFrameBytesMax}`,
      )
    }
    while (!this.#queue.fits(message.length) && !this.#isStopped()) await this.#room()
    if (!this.#isStopped()) this.#queue.send(this.#id, frameType.data, 0, message)
  }

  /** The same as `#stopped`, for use where the compiler cannot know that an await lies between. */
  #isStopped(): boolean {
    return this.#stopped
  }

  #room(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting = resolve
      this.#queue.wait(this.#wake)
    })
  }
}

export function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}
