/**
 * One call of the Streaming service as Go's ttrpc client makes it, frame by frame: it opens with flags 2, and closes its
 * own side also after the server has closed the other.
 */
import type { Socket } from 'node:net'
import type { AnyValue } from '#shared/rpc/any.ts'
import { encodeMethod } from '#shared/ttrpc/envelope.ts'
import { frameFlag, frameHeaderBytes, FrameParser, frameType, halfClose, noBytes, writeFrameHeader } from '#shared/ttrpc/frame.ts'
import { MessageQueue } from './message-queue.ts'
import { rpc } from './task-client.ts'

const STREAM_ID = 1
const FRAME_BYTES_MAX = 4 * 1024 * 1024

export class RawStream {
  readonly #socket: Socket
  readonly #received = new MessageQueue<AnyValue | Error>()
  readonly #messages = this.#received[Symbol.asyncIterator]()
  #closed = false
  /** Resolves when the agent has ended the connection. */
  readonly over: Promise<void>

  constructor(socket: Socket, id: string) {
    this.#socket = socket
    const { promise, resolve } = Promise.withResolvers<void>()
    this.over = promise
    const { responseDeserialize } = rpc.streaming.methods.Stream
    const parser = new FrameParser({
      frame: (_, type, flags, bytes, start, end) => {
        if (type === frameType.response) this.#received.push(new Error(`the stream failed: ${bytes.toString('utf8', start, end)}`))
        else if ((flags & frameFlag.noData) === 0) {
          const message = responseDeserialize(Buffer.from(bytes.subarray(start, end)))
          this.#received.push(isAny(message) ? message : new Error('a message that is no Any'))
        }
        if (type === frameType.response || (flags & frameFlag.remoteClosed) !== 0) this.#received.end()
      },
      oversize: () => this.#received.push(new Error('an oversize frame')),
    }, FRAME_BYTES_MAX)
    socket.on('data', (chunk: Buffer) => parser.push(chunk))
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#received.end()
      resolve()
    })
    this.#frame(frameType.request, frameFlag.remoteOpen, encodeMethod('containerd.services.streaming.v1.Streaming', 'Stream'))
    this.send(rpc.any.pack('containerd.services.streaming.v1.StreamInit', { id }))
  }

  send(message: AnyValue): void {
    this.#frame(frameType.data, 0, rpc.streaming.methods.Stream.requestSerialize(message))
  }

  /** The next message; undefined at the end of the stream. Throws when the agent answered with an error. */
  async next(): Promise<AnyValue | undefined> {
    const next = await this.#messages.next()
    if (next.done === true) return undefined
    if (next.value instanceof Error) throw next.value
    return next.value
  }

  /** Half-close. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#frame(frameType.data, halfClose, noBytes)
  }

  /** As when containerd is killed. */
  drop(): void {
    this.#socket.destroy()
  }

  #frame(type: number, flags: number, body: Buffer): void {
    if (this.#socket.destroyed) return
    const header = Buffer.alloc(frameHeaderBytes)
    writeFrameHeader(header, 0, body.length, STREAM_ID, type, flags)
    this.#socket.write(Buffer.concat([header, body]))
  }
}

function isAny(message: unknown): message is AnyValue {
  return typeof message === 'object' && message !== null && 'type_url' in message && 'value' in message
}
