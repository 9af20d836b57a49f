/** Back-pressure on the receiving side. */
import type { Connection } from './connection.ts'
import { Deadline } from './deadline.ts'

/**
 * Holds up the reading of a connection while one stream's queue is more than half full, which slows the peer down.
 * The protocol has no flow control per stream, so this slows the other calls too: after `streamStallMsMax` they come
 * first, and the stream is given up. A stream that is alone disturbs no one, and may take its time.
 */
export class Stall {
  readonly #connection: Connection
  readonly #alone: () => boolean
  readonly #tooLong: () => void
  #deadline: Deadline | undefined
  #over = false

  constructor(connection: Connection, alone: () => boolean, tooLong: () => void) {
    this.#connection = connection
    this.#alone = alone
    this.#tooLong = tooLong
  }

  /** To be called whenever the queue has grown or shrunk. */
  update(heldBytes: number): void {
    const { streamQueueBytesMax } = this.#connection.limits
    if (heldBytes * 2 <= streamQueueBytesMax) this.#release()
    else if (this.#deadline === undefined && !this.#over) {
      this.#connection.hold(this)
      this.#arm()
    }
  }

  /** The stream is over: what its queue still holds does not grow. */
  end(): void {
    this.#over = true
    this.#release()
  }

  #release(): void {
    if (this.#deadline === undefined) return
    this.#deadline.cancel()
    this.#deadline = undefined
    this.#connection.release(this)
  }

  #arm(): void {
    this.#deadline = new Deadline(this.#connection.limits.streamStallMsMax, () => {
      if (this.#alone()) this.#arm()
      else this.#tooLong()
    })
  }
}
