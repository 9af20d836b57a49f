/**
 * The frame of ttrpc, the same in both directions (containerd/ttrpc PROTOCOL.md):
 *
 *     0               4               8       9      10
 *     ┌───────────────┬───────────────┬───────┬───────┬──────────────────┐
 *     │ length  u32be │ stream  u32be │ type  │ flags │ length bytes     │
 *     └───────────────┴───────────────┴───────┴───────┴──────────────────┘
 *
 *     type   1 Request    an encoded Request envelope, client to server
 *            2 Response   an encoded Response envelope, server to client
 *            3 Data       one bare message of a stream, either way
 *     flags  1 remote closed   the sender sends nothing more on this stream
 *            2 remote open     the sender goes on sending Data
 *            4 no data         there is no message here (an empty frame without it is an empty message)
 */

export const frameHeaderBytes = 10

export const frameType = { request: 1, response: 2, data: 3 } as const

export const frameFlag = { remoteClosed: 1, remoteOpen: 2, noData: 4 } as const

/** Data with these flags ends the sender's half of a stream. */
export const halfClose = frameFlag.remoteClosed | frameFlag.noData

export const noBytes: Buffer = Buffer.alloc(0)

const typeNames: readonly string[] = ['type 0', 'Request', 'Response', 'Data']

/** The name of a frame type, for messages. */
export function frameTypeName(type: number): string {
  return typeNames[type] ?? `type ${type}`
}

/** Writes a header at `at`; the data belongs behind it. */
export function writeFrameHeader(
  into: Buffer,
  at: number,
  length: number,
  id: number,
  type: number,
  flags: number,
): void {
  into[at] = length >>> 24
  into[at + 1] = length >>> 16
  into[at + 2] = length >>> 8
  into[at + 3] = length
  into[at + 4] = id >>> 24
  into[at + 5] = id >>> 16
  into[at + 6] = id >>> 8
  into[at + 7] = id
  into[at + 8] = type
  into[at + 9] = flags
}

/** Where a parser hands its frames to. */
export interface FrameSink {
  /** A whole frame: its data is `bytes[start..end)`, in memory shared with its neighbours (see `keepBytes`). */
  frame(id: number, type: number, flags: number, bytes: Buffer, start: number, end: number): void
  /** A frame above the limit: its data is skipped as it comes in, and what follows is parsed as usual. */
  oversize(id: number, type: number, flags: number, length: number): void
}

/** A frame of which only a part has come in. Without `header`, not even its header has. */
export interface PartialFrame {
  readonly receivedBytes: number
  readonly header?: { readonly id: number; readonly type: number; readonly length: number }
}

/**
 * Splits a byte stream into frames, whatever the chunks it comes in. A frame inside one chunk is not copied; one that
 * spans chunks is gathered in a buffer of its exact size.
 */
export class FrameParser {
  readonly #sink: FrameSink
  readonly #bytesMax: number
  readonly #header = Buffer.alloc(frameHeaderBytes)
  #headerBytes = 0
  #id = 0
  #type = 0
  #flags = 0
  #length = 0
  /** The gathering buffer; undefined between frames and while skipping. */
  #body: Buffer | undefined
  #bodyBytes = 0
  /** Bytes of an oversize frame still to come. */
  #skipBytes = 0
  #stopped = false

  constructor(sink: FrameSink, frameBytesMax: number) {
    this.#sink = sink
    this.#bytesMax = frameBytesMax
  }

  /** Takes the next bytes of the stream. The chunk must not change afterwards: frames are handed out as views of it. */
  push(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length && !this.#stopped) {
      if (this.#body !== undefined) at += this.#gather(this.#body, chunk, at)
      else if (this.#skipBytes > 0) at += this.#skip(chunk.length - at)
      else at = this.#start(chunk, at)
    }
  }

  /** Hands out nothing more, not even the rest of a chunk being parsed. */
  stop(): void {
    this.#stopped = true
    this.#body = undefined
  }

  /** The frame the stream would be cut in if it ended now; undefined between frames. */
  get partial(): PartialFrame | undefined {
    const header = { id: this.#id, type: this.#type, length: this.#length }
    if (this.#body !== undefined) return { receivedBytes: this.#bodyBytes, header }
    if (this.#skipBytes > 0) return { receivedBytes: this.#length - this.#skipBytes, header }
    return this.#headerBytes > 0 ? { receivedBytes: this.#headerBytes } : undefined
  }

  /** Reads a header, and the whole frame where the chunk holds it. Returns where to go on. */
  #start(chunk: Buffer, from: number): number {
    let at = from
    let header = chunk
    let base = at
    if (this.#headerBytes > 0 || chunk.length - at < frameHeaderBytes) {
      const copied = chunk.copy(this.#header, this.#headerBytes, at)
      this.#headerBytes += copied
      at += copied
      if (this.#headerBytes < frameHeaderBytes) return at
      this.#headerBytes = 0
      header = this.#header
      base = 0
    } else {
      at += frameHeaderBytes
    }
    const length = header.readUInt32BE(base)
    const id = header.readUInt32BE(base + 4)
    const type = header.readUInt8(base + 8)
    const flags = header.readUInt8(base + 9)
    if (length <= this.#bytesMax && length <= chunk.length - at) {
      this.#sink.frame(id, type, flags, chunk, at, at + length)
      return at + length
    }
    this.#id = id
    this.#type = type
    this.#flags = flags
    this.#length = length
    if (length > this.#bytesMax) {
      this.#skipBytes = length
      this.#sink.oversize(id, type, flags, length)
    } else {
      this.#body = Buffer.allocUnsafe(length)
      this.#bodyBytes = 0
    }
    return at
  }

  #gather(body: Buffer, chunk: Buffer, at: number): number {
    const copied = chunk.copy(body, this.#bodyBytes, at)
    this.#bodyBytes += copied
    if (this.#bodyBytes === body.length) {
      this.#body = undefined
      this.#sink.frame(this.#id, this.#type, this.#flags, body, 0, body.length)
    }
    return copied
  }

  #skip(availableBytes: number): number {
    const skipped = Math.min(this.#skipBytes, availableBytes)
    this.#skipBytes -= skipped
    return skipped
  }
}

/**
 * The bytes of a frame as a buffer that may be kept. They are copied out of the chunk they came in unless they are at
 * least half of it, so that a kept message never holds much more memory than its own size (at most Node's 8 KiB
 * pool beside it).
 */
export function keepBytes(bytes: Buffer, start: number, end: number): Buffer {
  const length = end - start
  if (length === 0) return noBytes
  if (length * 2 >= bytes.length) return bytes.subarray(start, end)
  const copy = Buffer.allocUnsafe(length)
  bytes.copy(copy, 0, start, end)
  return copy
}
