/**
 * A queue of bytes whose memory is what it holds: small pieces are copied together, so that a container printing one
 * byte at a time costs no more than one printing pages.
 */

const BLOCK_BYTES = 32 * 1024

/** Pieces at least this large are kept as they are; copying smaller ones is cheaper than a Buffer object each. */
const KEEP_BYTES_MIN = 8 * 1024

const nothing = Buffer.alloc(0)

export class ByteQueue {
  #pieces: Buffer[] = []
  #head = 0
  #length = 0
  /** The block being filled; its filled part is the last piece. */
  #block: Buffer | undefined
  #filled = 0

  get length(): number {
    return this.#length
  }

  /** Keeps `bytes` (large pieces by reference: the caller no longer writes to them). */
  append(bytes: Buffer): void {
    if (bytes.length === 0) return
    this.#length += bytes.length
    if (bytes.length >= KEEP_BYTES_MIN) {
      this.#block = undefined
      this.#pieces.push(bytes)
      return
    }
    let from = 0
    while (from < bytes.length) {
      if (this.#block === undefined || this.#filled === BLOCK_BYTES || this.#head === this.#pieces.length) {
        this.#block = Buffer.allocUnsafeSlow(BLOCK_BYTES)
        this.#filled = 0
        this.#pieces.push(this.#block.subarray(0, 0))
      }
      const count = Math.min(bytes.length - from, BLOCK_BYTES - this.#filled)
      bytes.copy(this.#block, this.#filled, from, from + count)
      const last = this.#pieces.length - 1
      const begun = this.#filled - (this.#pieces[last]?.length ?? 0)
      this.#filled += count
      this.#pieces[last] = this.#block.subarray(begun, this.#filled)
      from += count
    }
  }

  /** Removes and returns the next bytes in one piece: at least one and at most `max`; empty when the queue is. */
  take(max: number): Buffer {
    const first = this.#pieces[this.#head]
    if (first === undefined || max <= 0) return nothing
    if (first.length <= max) {
      this.#drop()
      this.#length -= first.length
      return first
    }
    this.#pieces[this.#head] = first.subarray(max)
    this.#length -= max
    return first.subarray(0, max)
  }

  /** Removes up to `count` bytes. */
  skip(count: number): void {
    for (let left = Math.min(count, this.#length); left > 0; ) left -= this.take(left).length
  }

  clear(): void {
    this.skip(this.#length)
  }

  #drop(): void {
    this.#pieces[this.#head] = nothing
    this.#head++
    if (this.#head === this.#pieces.length) {
      this.#pieces = []
      this.#head = 0
      this.#block = undefined
    } else if (this.#head > 64) {
      this.#pieces = this.#pieces.slice(this.#head)
      this.#head = 0
    }
  }
}
