/**
 * Port-forward over CRI's streaming server, as a WebSocket of the subprotocol v4.channel.k8s.io. The ports of one request
 * share it: each has two channels, of data and of what went wrong, and on both the server first says the port. The
 * protocol has no half-close: a client ends its side with the whole connection.
 */
import { setTimeout as sleep } from 'node:timers/promises'

/** A channel's number is one byte, and a port takes two. */
export const PORTS_MAX = 127

/** Written to the socket and not yet sent, in bytes; and between two looks at it, in ms. */
const BUFFERED_BYTES_MAX = 1024 * 1024
const BUFFERED_POLL_MS = 2
const WRITE_BYTES_MAX = 32 * 1024

export interface ForwardedPort {
  readonly port: number
  /** Resolves when it is on its way but for a rest of 1 MiB. Rejects when the connection is over. */
  write(data: string | Uint8Array): Promise<void>
  /** What arrived so far. */
  readonly received: Buffer
  /** The server's own words on a forward that failed. */
  readonly error: string
  /** Resolves once what arrived satisfies `test`; fails when the connection ends before. */
  until(test: (received: Buffer, error: string) => boolean): Promise<void>
}

export interface PortForward {
  /** In the order they were asked for. */
  readonly ports: readonly ForwardedPort[]
  /** Resolves when the server has closed the connection: every forward has ended. */
  readonly closed: Promise<void>
  /** Drops the connection. */
  close(): void
}

/** Opens the stream behind a URL that CRI's PortForward answered for these ports. */
export async function openPortForward(url: string, ports: readonly number[]): Promise<PortForward> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), 'v4.channel.k8s.io')
  socket.binaryType = 'arraybuffer'
  const channels = ports.flatMap(() => [new Channel(), new Channel()])
  const { promise: closed, resolve } = Promise.withResolvers<void>()
  const watchers = new Set<() => void>()
  const look = () => {
    for (const watcher of watchers) watcher()
  }
  socket.addEventListener('message', ({ data }) => {
    if (!(data instanceof ArrayBuffer)) return
    const message = Buffer.from(data)
    channels[message[0] ?? 0]?.take(message.subarray(1))
    look()
  })
  await new Promise<void>((opened, failed) => {
    socket.addEventListener('open', () => opened())
    socket.addEventListener('error', () => failed(new Error(`cannot open the stream ${url}`)))
  })
  socket.addEventListener('close', () => {
    resolve()
    look()
  })
  const over = () => socket.readyState === WebSocket.CLOSED
  const forwarded = ports.map((port, index): ForwardedPort => {
    const [data, error] = [channels[index * 2] ?? new Channel(), channels[index * 2 + 1] ?? new Channel()]
    return {
      port,
      async write(given) {
        const bytes = Buffer.from(given)
        for (let at = 0; at < bytes.length; at += WRITE_BYTES_MAX) {
          while (socket.bufferedAmount > BUFFERED_BYTES_MAX && !over()) await sleep(BUFFERED_POLL_MS)
          if (over()) throw new Error('the connection is over')
          socket.send(Buffer.concat([Buffer.of(index * 2), bytes.subarray(at, at + WRITE_BYTES_MAX)]))
        }
      },
      get received() {
        return data.payload()
      },
      get error() {
        return error.payload().toString()
      },
      until: (test) =>
        new Promise((satisfied, failed) => {
          const watcher = () => {
            if (test(data.payload(), error.payload().toString())) satisfied()
            else if (over()) failed(new Error(`the forward of port ${port} ended with ${data.payload().length} bytes: ${error.payload().toString()}`))
            else return
            watchers.delete(watcher)
          }
          watchers.add(watcher)
          watcher()
        }),
    }
  })
  return { ports: forwarded, closed, close: () => socket.close() }
}

/** What one channel carried, the port at its beginning set aside. */
class Channel {
  #bytes = Buffer.alloc(0)
  #length = 0

  take(piece: Buffer): void {
    const length = this.#length + piece.length
    if (length > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(4096, 2 * length))
      this.#bytes.copy(larger, 0, 0, this.#length)
      this.#bytes = larger
    }
    piece.copy(this.#bytes, this.#length)
    this.#length = length
  }

  payload(): Buffer {
    return this.#bytes.subarray(Math.min(2, this.#length), this.#length)
  }
}
