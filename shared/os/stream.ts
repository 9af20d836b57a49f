/** Pipe ends, pty masters and sockets as streams. */
import { Socket } from 'node:net'
import { isErrno } from './error.ts'
import { socketOptions } from './handle.ts'

type Done = (error?: Error | null) => void
type QueuedWrites = { chunk: unknown; encoding: BufferEncoding }[]

export type StreamMode = 'read' | 'write' | 'duplex'

/**
 * A stream that owns a descriptor. A pty master whose last slave closed fails its reads with EIO (tty_ioctl(4),
 * Linux); to a reader that is the end of the output and no error.
 */
class DescriptorStream extends Socket {
  #hungUp = false

  constructor(fd: number, mode: StreamMode) {
    super(socketOptions(fd, { readable: mode !== 'write', writable: mode !== 'read' }))
  }

  override destroy(error?: Error): this {
    if (!isHangup(error)) return super.destroy(error)
    this.#hungUp = true
    if (this.readableEnded) return super.destroy()
    this.once('end', () => super.destroy())
    this.push(null)
    // As net.Socket itself does at the end of its input: with nothing buffered, 'end' needs no reader.
    this.read(0)
    return this
  }

  // After a hang-up nobody takes input. libuv would fail it with EPIPE, and the error would discard output not yet read.
  override _write(chunk: unknown, encoding: BufferEncoding, done: Done): void {
    if (this.#hungUp) done()
    else super._write(chunk, encoding, done)
  }

  override _writev(writes: QueuedWrites, done: Done): void {
    if (this.#hungUp) done()
    else super._writev?.(writes, done)
  }
}

function isHangup(error: Error | undefined): boolean {
  return error !== undefined && isErrno(error, 'EIO') && 'syscall' in error && error.syscall === 'read'
}

/** For what epoll(7) takes: anything else ends the process. Errors: EBADF. On an error `fd` is still the caller's. */
export function descriptorStream(fd: number, mode: StreamMode): Socket {
  return new DescriptorStream(fd, mode)
}
