/** As much of protobuf's encoding as the envelopes need: varints, strings and length-delimited fields. */

/** Bytes that are not the message they should be. */
export class DecodeError extends Error {
  override readonly name = 'DecodeError'
}

/** Bytes of a varint. `value` is a whole number from 0 to 2⁶³, exact or a double near it. */
export function varintSize(value: number): number {
  let size = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++
  return size
}

/** Writes a varint and returns where it ends. */
export function writeVarint(into: Buffer, at: number, value: number): number {
  let end = at
  let rest = value
  while (rest >= 0x80) {
    into[end++] = (rest % 0x80) | 0x80
    rest = Math.floor(rest / 0x80)
  }
  into[end++] = rest
  return end
}

/** Bytes of a length-delimited field with a one-byte tag (field numbers 1 to 15). */
export function fieldSize(bytes: number): number {
  return 1 + varintSize(bytes) + bytes
}

/** Writes a length-delimited field whose tag fits one byte and returns where it ends. */
export function writeField(into: Buffer, at: number, field: number, value: Uint8Array): number {
  into[at] = (field << 3) | wireType.bytes
  const start = writeVarint(into, at + 1, value.length)
  into.set(value, start)
  return start + value.length
}

export const wireType = { varint: 0, fixed64: 1, bytes: 2, startGroup: 3, endGroup: 4, fixed32: 5 } as const

/** Groups inside groups that are skipped before the message counts as malformed. */
const groupDepthMax = 32

/** A tag, and a number or a length. */
const FIELD_BYTES_MIN = 2

/** Throws a DecodeError for a message of more than `max` fields, those of messages in it not counted. */
export function checkFields(bytes: Buffer, max: number): void {
  if (bytes.length / FIELD_BYTES_MIN <= max) return
  const reader = new Reader(bytes, 0, bytes.length)
  let fields = 0
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (++fields > max) throw new DecodeError(`more than ${max} fields`)
    reader.skip(tag)
  }
}

/** A cursor over one encoded message. Everything it reads is checked against the message's end. */
export class Reader {
  readonly bytes: Buffer
  readonly end: number
  at: number
  #low = 0
  #high = 0

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes
    this.at = start
    this.end = end
  }

  /** The next field's tag (number << 3 | wire type), or 0 at the end. */
  tag(): number {
    if (this.at >= this.end) return 0
    this.#varint()
    const valid = this.#high === 0 && this.#low >>> 3 > 0
    if (!valid) throw new DecodeError(`a field number is out of range at byte ${this.at}`)
    return this.#low
  }

  /** An int32. */
  int32(): number {
    this.#varint()
    return this.#low | 0
  }

  /** An int64 as a double: exact to ±2⁵³. */
  int64(): number {
    this.#varint()
    return (this.#high | 0) * 0x1_0000_0000 + this.#low
  }

  /** The length of a length-delimited field; its bytes are the next ones. */
  length(): number {
    this.#varint()
    if (this.#high !== 0 || this.#low > this.end - this.at) {
      throw new DecodeError(`a field at byte ${this.at} is longer than its message`)
    }
    return this.#low
  }

  string(): string {
    const length = this.length()
    const start = this.at
    this.at += length
    return this.bytes.toString('utf8', start, this.at)
  }

  /** A nested message. */
  nested(): Reader {
    const length = this.length()
    const start = this.at
    this.at += length
    return new Reader(this.bytes, start, this.at)
  }

  /** Steps over a field that nobody asked for. */
  skip(tag: number): void {
    this.#skip(tag, 0)
  }

  #skip(tag: number, depth: number): void {
    switch (tag & 7) {
      case wireType.varint:
        this.#varint()
        return
      case wireType.fixed64:
        this.#advance(8)
        return
      case wireType.bytes:
        this.#advance(this.length())
        return
      case wireType.fixed32:
        this.#advance(4)
        return
      case wireType.startGroup:
        this.#skipGroup(tag, depth + 1)
        return
      default:
        throw new DecodeError(`wire type ${tag & 7} does not belong at byte ${this.at}`)
    }
  }

  #skipGroup(start: number, depth: number): void {
    if (depth > groupDepthMax) throw new DecodeError(`more than ${groupDepthMax} groups inside each other`)
    for (;;) {
      const tag = this.tag()
      if (tag === 0) throw new DecodeError('a group does not end')
      if ((tag & 7) === wireType.endGroup) {
        if (tag >>> 3 !== start >>> 3) throw new DecodeError(`a group ends with another's tag at byte ${this.at}`)
        return
      }
      this.#skip(tag, depth)
    }
  }

  #advance(bytes: number): void {
    if (bytes > this.end - this.at) throw new DecodeError(`a field at byte ${this.at} is longer than its message`)
    this.at += bytes
  }

  /** Reads up to ten bytes into two unsigned halves. */
  #varint(): void {
    let low = 0
    let high = 0
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.at >= this.end) throw new DecodeError(`a number is cut off at byte ${this.at}`)
      const byte = this.bytes[this.at++] ?? 0
      if (shift < 28) low |= (byte & 0x7f) << shift
      else if (shift === 28) {
        low |= (byte & 0x0f) << 28
        high = (byte & 0x7f) >>> 4
      } else high |= (byte & 0x7f) << (shift - 32)
      if (byte < 0x80) {
        this.#low = low >>> 0
        this.#high = high >>> 0
        return
      }
    }
    throw new DecodeError(`a number has more than ten bytes at byte ${this.at}`)
  }
}
