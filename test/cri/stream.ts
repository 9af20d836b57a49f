/**
 * Exec and attach over CRI's streaming server: a WebSocket of the subprotocol v4.channel.k8s.io, the newest that
 * containerd 2.1 speaks. Every message is binary and opens with the number of its channel. The protocol has no
 * half-close: standard input ends with the connection.
 */

const channel = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4 } as const

/** What ends an exec: the exit code, or the failure's message. */
export interface StreamResult {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number
  /** The server's own words when the exit code is not 0. */
  readonly message: string
}

export interface TerminalSize {
  readonly columns: number
  readonly rows: number
}

export interface Stream {
  /** Standard input; refused by a stream opened without it. */
  write(data: string | Uint8Array): void
  resize(size: TerminalSize): void
  /** What arrived so far. */
  readonly stdout: string
  readonly stderr: string
  /** Resolves once the output so far satisfies `test`; fails when the stream ends before. */
  output(test: (stdout: string, stderr: string) => boolean): Promise<void>
  /** Resolves when the server has said how it ended. Rejects when the connection breaks before. */
  readonly done: Promise<StreamResult>
  /** Drops the connection. */
  close(): void
}

export interface StreamHandlers {
  readonly onOutput?: (stream: 'stdout' | 'stderr', data: Buffer) => void
}

/** Opens the stream behind a URL that CRI's Exec or Attach answered. */
export async function openStream(url: string, handlers: StreamHandlers = {}): Promise<Stream> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), 'v4.channel.k8s.io')
  socket.binaryType = 'arraybuffer'
  const chunks: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] }
  const text = (stream: 'stdout' | 'stderr') => Buffer.concat(chunks[stream]).toString()
  const watchers = new Set<() => void>()
  let status: Pick<StreamResult, 'exitCode' | 'message'> | undefined

  const { promise: done, resolve, reject } = Promise.withResolvers<StreamResult>()
  // Not every user of a stream waits for its end.
  done.catch(() => {})

  socket.addEventListener('message', ({ data }) => {
    if (!(data instanceof ArrayBuffer)) return
    const message = Buffer.from(data)
    const payload = message.subarray(1)
    if (message[0] === channel.status) status = parseStatus(payload.toString())
    const stream = message[0] === channel.stdout ? 'stdout' : message[0] === channel.stderr ? 'stderr' : undefined
    // The server opens with an empty message on each channel.
    if (stream === undefined || payload.length === 0) return
    chunks[stream].push(payload)
    handlers.onOutput?.(stream, payload)
    for (const watcher of watchers) watcher()
  })

  await new Promise<void>((opened, failed) => {
    socket.addEventListener('open', () => opened())
    socket.addEventListener('error', () => failed(new Error(`cannot open the stream ${url}`)))
  })
  socket.addEventListener('close', ({ code, reason }) => {
    if (status === undefined) reject(new Error(`the stream broke before its end: ${code} ${reason}`))
    else resolve({ stdout: text('stdout'), stderr: text('stderr'), ...status })
    for (const watcher of watchers) watcher()
  })

  const send = (to: number, data: string | Uint8Array) => socket.send(Buffer.concat([Buffer.of(to), Buffer.from(data)]))
  return {
    write: (data) => send(channel.stdin, data),
    resize: ({ columns, rows }) => send(channel.resize, JSON.stringify({ Width: columns, Height: rows })),
    get stdout() {
      return text('stdout')
    },
    get stderr() {
      return text('stderr')
    },
    output: (test) =>
      new Promise((satisfied, failed) => {
        const watcher = () => {
          if (test(text('stdout'), text('stderr'))) satisfied()
          else if (socket.readyState === WebSocket.CLOSED) {
            failed(new Error(`the stream ended with: ${text('stdout')}${text('stderr')}`))
          } else return
          watchers.delete(watcher)
        }
        watchers.add(watcher)
        watcher()
      }),
    done,
    close: () => socket.close(),
  }
}

/** The last message: a Kubernetes Status, with the exit code among its causes. */
function parseStatus(json: string): { exitCode: number; message: string } {
  const status: unknown = JSON.parse(json)
  if (!isStatus(status)) throw new Error(`not a Kubernetes Status: ${json}`)
  if (status.status === 'Success') return { exitCode: 0, message: '' }
  const code = status.details?.causes?.find((cause) => cause.reason === 'ExitCode')?.message
  return { exitCode: code === undefined ? -1 : Number(code), message: status.message ?? '' }
}

interface Status {
  readonly status: string
  readonly message?: string
  readonly details?: { readonly causes?: readonly { readonly reason?: string; readonly message?: string }[] }
}

function isStatus(value: unknown): value is Status {
  return typeof value === 'object' && value !== null && 'status' in value && typeof value.status === 'string'
}
