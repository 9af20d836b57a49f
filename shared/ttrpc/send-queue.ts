/**
 * The way out of a connection. Frames are encoded straight into blocks of memory, and all that one turn of the event
 * loop produced is handed to the socket together. One batch is with the socket at a time, so the bytes a slow peer
 * holds up are all counted here.
 */
import type { Duplex } from 'node:stream'
import { frameHeaderBytes, writeFrameHeader } from './frame.ts'
import type { Limits } from './limits.ts'

/** Small frames share a block; a larger frame has its own. */
const blockBytes = 16 * 1024

export class SendQueue {
  readonly #socket: Duplex
  readonly #limits: Limits
  readonly #relieved: () => void
  /** Finished pieces of blocks, oldest first. */
  #pieces: Buffer[] = []
  #block: Buffer = Buffer.alloc(0)
  /** The part of the block that is encoded and not in `#pieces`: [start, end). */
  #start = 0
  #end = 0
  #queuedBytes = 0
  #scheduled = false
  #writing = false
  #stopped = false
  readonly #waiters = new Set<() => void>()

  /** @param relieved called whenever a batch was written and the queue is not `crowded` any more */
  constructor(socket: Duplex, limits: Limits, relieved: () => void) {
    this.#socket = socket
    this.#limits = limits
    this.#relieved = relieved
  }

  /** Bytes not yet taken by the operating system. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** True while streams and server reads should wait. */
  get crowded(): boolean {
    return this.#queuedBytes >= this.#limits.sendQueueBytesHigh
  }

  /** True when a frame with so much data may be queued. An empty queue takes any frame. */
  fits(dataBytes: number): boolean {
    return this.#queuedBytes === 0 || this.#queuedBytes + frameHeaderBytes + dataBytes <= this.#limits.sendQueueBytesMax
  }

  /**
   * Queues a frame whose data the caller writes at once into `block`, from the returned offset on. Whether it fits is
   * the caller's to ask before.
   */
  reserve(dataBytes: number, id: number, type: number, flags: number): number {
    const size = frameHeaderBytes + dataBytes
    if (size > this.#block.length - this.#end) {
      this.#seal()
      this.#block = Buffer.allocUnsafeSlow(Math.max(blockBytes, size))
      this.#start = 0
      this.#end = 0
    }
    const at = this.#end
    this.#end += size
    this.#queuedBytes += size
    writeFrameHeader(this.#block, at, dataBytes, id, type, flags)
    if (!this.#scheduled && !this.#writing) {
      this.#scheduled = true
      process.nextTick(flush, this)
    }
    return at + frameHeaderBytes
  }

  /** The block `reserve` made room in. */
  get block(): Buffer {
    return this.#block
  }

  /** Queues a frame with ready data. */
  send(id: number, type: number, flags: number, data: Uint8Array): void {
    const at = this.reserve(data.length, id, type, flags)
    if (data.length > 0) this.#block.set(data, at)
  }

  /** Calls back once, when bytes were written or the queue was stopped. */
  wait(wake: () => void): void {
    if (this.#stopped) wake()
    else this.#waiters.add(wake)
  }

  /** Takes back a `wait`. */
  forget(wake: () => void): void {
    this.#waiters.delete(wake)
  }

  /** Drops everything and lets no one wait. */
  stop(): void {
    this.#stopped = true
    this.#pieces = []
    this.#block = Buffer.alloc(0)
    this.#start = 0
    this.#end = 0
    this.#queuedBytes = 0
    this.#wakeAll()
  }

  /** Hands the next batch to the socket. */
  flush(): void {
    this.#scheduled = false
    if (this.#writing || this.#stopped) return
    this.#seal()
    const batch = this.#take()
    const last = batch.pop()
    if (last === undefined) return
    this.#writing = true
    let batchBytes = last.length
    if (batch.length > 0) this.#socket.cork()
    for (const piece of batch) {
      batchBytes += piece.length
      this.#socket.write(piece)
    }
    this.#socket.write(last, (error) => this.#written(batchBytes, error))
    if (batch.length > 0) this.#socket.uncork()
  }

  #written(bytes: number, error: Error | null | undefined): void {
    this.#writing = false
    // The socket's own 'error' ends the connection.
    if (this.#stopped || (error !== null && error !== undefined)) return
    this.#queuedBytes -= bytes
    this.flush()
    // In the event loop's next turn: writes to a fast peer complete at once, and a stream that has always more to send
    // would otherwise let nothing else run.
    if (this.#waiters.size > 0) setImmediate(() => this.#wakeAll())
    if (!this.crowded) this.#relieved()
  }

  #wakeAll(): void {
    const waiters = [...this.#waiters]
    this.#waiters.clear()
    for (const wake of waiters) wake()
  }

  /** Ends the current piece; the block's rest stays in use. */
  #seal(): void {
    if (this.#end === this.#start) return
    this.#pieces.push(this.#block.subarray(this.#start, this.#end))
    this.#start = this.#end
  }

  /** Takes as many bytes off the queue as one write may have. */
  #take(): Buffer[] {
    const bytesMax = this.#limits.writeBytesMax
    let takenBytes = 0
    let taken = 0
    for (const piece of this.#pieces) {
      if (takenBytes + piece.length > bytesMax) break
      takenBytes += piece.length
      taken++
    }
    if (taken === this.#pieces.length) {
      const all = this.#pieces
      this.#pieces = []
      return all
    }
    if (taken > 0) return this.#pieces.splice(0, taken)
    const first = this.#pieces[0]
    if (first === undefined) return []
    this.#pieces[0] = first.subarray(bytesMax)
    return [first.subarray(0, bytesMax)]
  }
}

function flush(queue: SendQueue): void {
  queue.flush()
}
