/**
 * One forwarded TCP connection on a carrier that has no half-close of its own: a connection to the guest's vsock.
 *
 *   host → guest    port    u16
 *   guest → host    answer  u8     see `answers`
 *
 *   then frames of  kind    u8
 *                   count   u24
 *
 *   data    both ways       count bytes follow, WINDOW_BYTES at most
 *   end     both ways       the end of this direction; count is 0
 *   credit  both ways       so many bytes of data were taken, and may come again; a quarter of WINDOW_BYTES at least
 *   done    guest → host    both ends were seen, and all was taken; count is 0
 *
 * Numbers are big-endian. Either side may have WINDOW_BYTES of data under way that the other has not taken, so a carrier
 * is always read, but for the host's rests from a guest that costs too much, and no reader that is slow ever fills it:
 * vhost-device-vsock 0.3.0 stalls for good when both directions of a connection are full. Done is the guest's last word and
 * tells the host to close: no data is under way then, so no carrier can lose any by how it closes. A carrier that closes
 * before is the connection's reset.
 */
import { RuntimeError, unreachable } from '../errors.ts'

/** vsock port on which the agent serves forwards. */
export const FORWARD_PORT = 1028

/** What the guest answers to a port. */
export const answers = { connected: 0, refused: 1, unreachable: 2 } as const

export const PORT_BYTES = 2
export const ANSWER_BYTES = 1

/** Of data, in each direction. Less than what a vsock's own buffers hold (64 KiB in the device, 256 in the guest) and a frame's header. */
export const WINDOW_BYTES = 60 * 1024

const HEADER_BYTES = 4

const kinds = { data: 0, end: 1, credit: 2, done: 3 } as const
type Kind = keyof typeof kinds
const kindNames: readonly (Kind | undefined)[] = ['data', 'end', 'credit', 'done']

/** A frame's header; after that of data its bytes follow. */
export function header(kind: Kind, count = 0): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES)
  bytes.writeUInt32BE(kinds[kind] * 0x100_0000 + count)
  return bytes
}

export interface FrameSink {
  /** Never empty; a frame's data may come in several pieces. The bytes alias the chunk they came in. */
  data(bytes: Buffer): void
  credit(bytes: number): void
  end(): void
  done(): void
}

/** Holds no data: pieces of frames go on as they come, so whatever a peer claims costs nothing. */
export class FrameParser {
  readonly #sink: FrameSink
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerBytes = 0
  /** Of the current frame's data, still to come. */
  #left = 0
  #ended = false
  #done = false

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Answers how many frames it began. Throws INVALID_ARGUMENT for what is no frame, or may not come any more. */
  push(chunk: Buffer): number {
    let frames = 0
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0) {
        const piece = chunk.subarray(at, at + this.#left)
        this.#left -= piece.length
        at += piece.length
        this.#sink.data(piece)
      } else {
        const taken = chunk.copy(this.#header, this.#headerBytes, at)
        at += taken
        this.#headerBytes += taken
        if (this.#headerBytes < HEADER_BYTES) continue
        frames++
        this.#frame()
      }
    }
    return frames
  }

  #frame(): void {
    this.#headerBytes = 0
    const word = this.#header.readUInt32BE()
    const kind = kindNames[word >>> 24]
    const count = word & 0xff_ffff
    const counts = kind === 'data' || kind === 'credit'
    if (kind === undefined || (counts ? count === 0 || count > WINDOW_BYTES : count !== 0)) {
      throw new RuntimeError('INVALID_ARGUMENT', `a forward's frame of kind ${word >>> 24} and count ${count}: expected 1 to ${WINDOW_BYTES} bytes of data or credit, or an end`)
    }
    if (this.#done || (this.#ended && (kind === 'data' || kind === 'end'))) {
      throw new RuntimeError('INVALID_ARGUMENT', `a forward went on with ${kind} after its ${this.#done ? 'last word' : 'end'}`)
    }
    switch (kind) {
      case 'data':
        this.#left = count
        return
      case 'credit':
        this.#sink.credit(count)
        return
      case 'end':
        this.#ended = true
        this.#sink.end()
        return
      case 'done':
        this.#done = true
        this.#sink.done()
        return
      default:
        unreachable(kind)
    }
  }
}
