/** The messages a server's call receives after its request. */
import { RuntimeError } from '../errors.ts'
import { ReceiveQueue } from './receive-queue.ts'
import type { ServerLink } from './server-link.ts'
import { Stall } from './stall.ts'

export class RequestStream {
  /** What the handler reads. */
  readonly queue: ReceiveQueue<unknown>
  readonly #link: ServerLink
  readonly #path: string
  readonly #fail: (error: RuntimeError) => void
  readonly #stall: Stall
  #closed = false

  /** @param fail ends the call */
  constructor(link: ServerLink, path: string, decode: (bytes: Buffer) => unknown, fail: (error: RuntimeError) => void) {
    this.#link = link
    this.#path = path
    this.#fail = fail
    this.queue = new ReceiveQueue(decode, link.shared.limits.streamQueueBytesMax, {
      taken: (bytes) => {
        link.hold(-bytes)
        this.#stall.update(this.queue.heldBytes)
      },
      abandoned: () => {},
      malformed: fail,
    })
    // Calls that are not read yet may wait behind this stream, so it is never known to be alone.
    this.#stall = new Stall(link.connection, () => false, () => this.#unread())
  }

  /** A message from the peer. */
  message(bytes: Buffer): void {
    if (this.#closed) {
      this.#fail(new RuntimeError('INVALID_ARGUMENT', `${this.#path}: a message came after the end of its stream`))
      return
    }
    const held = this.#link.hasRoom(bytes.length) ? this.queue.push(bytes) : -1
    if (held < 0) this.#unread()
    else if (held > 0) {
      this.#link.hold(held)
      this.#stall.update(this.queue.heldBytes)
    }
  }

  /** The peer's half-close. */
  close(): void {
    this.#closed = true
    this.queue.end()
  }

  /** The call is over. Without an error, a reader that is still there sees the end. */
  over(error: RuntimeError | undefined): void {
    this.#closed = true
    if (error === undefined) this.queue.abandon()
    else this.queue.discard(error)
    this.#stall.end()
  }

  /** The connection is over. What came before it can still be read. */
  lost(error: RuntimeError): void {
    this.queue.fail(error)
    this.#stall.end()
  }

  #unread(): void {
    const held = this.queue.heldBytes
    const message = `${this.#path}: the handler left ${held} bytes of the stream unread`
    this.#fail(new RuntimeError('RESOURCE_EXHAUSTED', message))
  }
}
