/**
 * A connected vsock as a `net.Socket` that never gives the kernel more than VSOCK_WRITE_BYTES_MAX in one call.
 *
 * Guest kernels from 6.12 send a larger write as one scattered buffer, and vhost-device-vsock 0.3.0 drops those
 * silently, so the limit must hold for every write: a long chunk, and also many short ones that cork() or a slow
 * peer made into one writev. node:tls and node:http2 know a way past it: README.md.
 */
import { Socket } from 'node:net'
import { socketOptions } from '../handle.ts'
import { VSOCK_WRITE_BYTES_MAX, type VsockAddress } from './contract.ts'
import { splitWrites } from './split.ts'

type Done = (error?: Error | null) => void

interface QueuedWrite {
  readonly chunk: Uint8Array | string
  readonly encoding: BufferEncoding
}

export class VsockSocket extends Socket {
  /** The other end. */
  readonly peer: VsockAddress

  /** Takes over `fd`, a connected vsock. */
  constructor(fd: number, peer: VsockAddress) {
    super(socketOptions(fd))
    this.peer = peer
  }

  override _write(chunk: Uint8Array | string, encoding: BufferEncoding, done: Done): void {
    const bytes = toBytes({ chunk, encoding })
    if (bytes.length <= VSOCK_WRITE_BYTES_MAX) this.#writeOne(bytes, done)
    else this.#writeAll(splitWrites([bytes], VSOCK_WRITE_BYTES_MAX), done)
  }

  override _writev(writes: QueuedWrite[], done: Done): void {
    this.#writeAll(splitWrites(writes.map(toBytes), VSOCK_WRITE_BYTES_MAX), done)
  }

  /**
   * Closes once everything is written: end() has no half-close. vhost-device-vsock 0.3.0 takes a guest's shutdown(2) of
   * one direction without passing it on, neither side then ever closes, and later connections stall or are refused.
   */
  override _final(done: Done): void {
    done()
    process.nextTick(() => this.destroy())
  }

  #writeOne(bytes: Uint8Array | undefined, done: Done): void {
    // Streams name the encoding of bytes "buffer"; the declared type of the parameter knows text encodings only.
    // oxlint-disable-next-line typescript/unbound-method -- Reflect.apply binds it.
    Reflect.apply(super._write, this, [bytes, 'buffer', done])
  }

  /**
   * One piece after the other. The kernel takes most of them at once and Node then calls back from inside the write,
   * so the loop keeps its own turn instead of nesting one call per piece.
   */
  #writeAll(pieces: readonly Uint8Array[], done: Done): void {
    let next = 0
    let inLoop = false
    const advance = (error?: Error | null) => {
      if (error) return done(error)
      if (inLoop) {
        inLoop = false
        return
      }
      while (next < pieces.length) {
        inLoop = true
        this.#writeOne(pieces[next++], advance)
        if (inLoop) {
          inLoop = false
          return
        }
      }
      done()
    }
    advance()
  }
}

function toBytes({ chunk, encoding }: QueuedWrite): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk
}
