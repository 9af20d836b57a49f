/** The receiving half of a stream: messages on their way to a reader that may be slow, or gone. */
import { asRuntimeError, type RuntimeError } from '../errors.ts'

/** What a queued message counts beside its own bytes. */
export const messageOverheadBytes = 64

type Result<T> = IteratorResult<T, undefined>

interface Waiter<T> {
  readonly promise: Promise<Result<T>>
  readonly resolve: (result: Result<T>) => void
  readonly reject: (error: RuntimeError) => void
}

/** Rejects what a reader waits for. A reader that has stopped waiting must not end the process. */
function reject<T>(waiter: Waiter<T>, error: RuntimeError): void {
  waiter.reject(error)
  markHandled(waiter.promise)
}

/** Keeps a rejection that no one awaits (yet) from ending the process. Whoever awaits it gets it all the same. */
export function markHandled(promise: Promise<unknown>): void {
  promise.catch(() => {})
}

interface Held {
  readonly bytes: Buffer
  next: Held | undefined
}

/** What a receive queue tells the call it belongs to. */
export interface ReceiveHooks {
  /** So many bytes less are held: a message was read, or the queue emptied. */
  taken(bytes: number): void
  /** The reader wants no more. */
  abandoned(): void
  /** A message could not be decoded, which the reader has been told. */
  malformed(error: RuntimeError): void
}

/**
 * Messages are held encoded, so what they hold is known, and decoded when they are read. One reader: a second one
 * would share the messages with the first.
 */
export class ReceiveQueue<T> implements AsyncIterableIterator<T, undefined> {
  readonly #decode: (bytes: Buffer) => T
  readonly #bytesMax: number
  readonly #hooks: ReceiveHooks
  #first: Held | undefined
  #last: Held | undefined
  #heldBytes = 0
  readonly #waiters: Waiter<T>[] = []
  #ended = false
  #error: RuntimeError | undefined

  /** @param decode throws the error the reader gets */
  constructor(decode: (bytes: Buffer) => T, bytesMax: number, hooks: ReceiveHooks) {
    this.#decode = decode
    this.#bytesMax = bytesMax
    this.#hooks = hooks
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  /** Takes a message. Returns the bytes it holds (0 when a reader has it already), or -1: the queue is full. */
  push(bytes: Buffer): number {
    if (this.#ended) return 0
    const waiter = this.#waiters.shift()
    if (waiter !== undefined) {
      this.#deliver(bytes, waiter)
      return 0
    }
    const cost = bytes.length + messageOverheadBytes
    if (this.#heldBytes + cost > this.#bytesMax) return -1
    const held = { bytes, next: undefined }
    if (this.#last === undefined) this.#first = held
    else this.#last.next = held
    this.#last = held
    this.#heldBytes += cost
    return cost
  }

  /** No more messages come. Those held can still be read. */
  end(): void {
    this.#ended = true
    for (const waiter of this.#waiters.splice(0)) waiter.resolve({ done: true, value: undefined })
  }

  /** The stream broke. The reader gets what came before, then the error. */
  fail(error: RuntimeError): void {
    if (this.#ended) return
    const waiter = this.#waiters.shift()
    if (waiter === undefined) this.#error = error
    else reject(waiter, error)
    this.end()
  }

  /** The call was given up. The reader gets the error next; what came before is dropped. */
  discard(error: RuntimeError): void {
    this.#clear()
    if (this.#ended) this.#error ??= error
    else this.fail(error)
  }

  /** Drops everything: a reader that is still there sees the end. */
  abandon(): void {
    this.#clear()
    this.#error = undefined
    this.end()
  }

  next(): Promise<Result<T>> {
    const held = this.#first
    if (held !== undefined) {
      this.#first = held.next
      if (this.#first === undefined) this.#last = undefined
      const cost = held.bytes.length + messageOverheadBytes
      this.#heldBytes -= cost
      this.#hooks.taken(cost)
      const waiter = Promise.withResolvers<Result<T>>()
      this.#deliver(held.bytes, waiter)
      return waiter.promise
    }
    const waiter = Promise.withResolvers<Result<T>>()
    const error = this.#error
    this.#error = undefined
    if (error !== undefined) reject(waiter, error)
    else if (this.#ended) waiter.resolve({ done: true, value: undefined })
    else this.#waiters.push(waiter)
    return waiter.promise
  }

  return(): Promise<Result<T>> {
    this.abandon()
    this.#hooks.abandoned()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #deliver(bytes: Buffer, waiter: Waiter<T>): void {
    let value: T
    try {
      value = this.#decode(bytes)
    } catch (thrown) {
      const error = asRuntimeError(thrown)
      reject(waiter, error)
      this.abandon()
      this.#hooks.malformed(error)
      return
    }
    waiter.resolve({ done: false, value })
  }

  #clear(): void {
    const held = this.#heldBytes
    this.#first = undefined
    this.#last = undefined
    this.#heldBytes = 0
    if (held > 0) this.#hooks.taken(held)
  }
}
