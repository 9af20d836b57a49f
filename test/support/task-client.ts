/**
 * The part of containerd that talks to an agent: streams and Task calls over a hybrid vsock, in containerd's order and
 * with its windows (containerd-contract, section 0). Works against any agent behind such a socket, in a VM or not.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { loadGuestRpc } from '#guest/rpc.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import { RawStream } from './raw-stream.ts'

export const rpc = loadGuestRpc()

const WINDOW_BYTES = 65_536
const NEWLINE = 0x0a
const DATA_BYTES_MAX = 32_768
export const PROCESS_TYPE = 'types.containerd.io/opencontainers/runtime-spec/1/Process'
const RESOURCES_TYPE = 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources'

export type TaskCalls = Calls<ServiceTypesOf<'task'>>
export type AgentCalls = Calls<ServiceTypesOf<'agent'>>

/** Connects through the handshake of a hybrid vsock. */
export async function dialHybrid(path: string, port = 1024): Promise<Socket> {
  const socket = connect(path)
  await once(socket, 'connect')
  socket.write(`CONNECT ${port}\n`)
  let received = Buffer.alloc(0)
  while (!received.includes(NEWLINE)) {
    const chunk: unknown = socket.read()
    if (Buffer.isBuffer(chunk)) received = Buffer.concat([received, chunk])
    else if (socket.readableEnded || socket.destroyed) throw new Error(`${path} closed before its OK`)
    else await Promise.race([once(socket, 'readable'), once(socket, 'end')])
  }
  const end = received.indexOf(NEWLINE)
  const line = received.toString('latin1', 0, end)
  if (!/^OK \d+$/.test(line)) throw new Error(`${path} answered ${JSON.stringify(line)}`)
  if (received.length > end + 1) socket.unshift(received.subarray(end + 1))
  return socket
}

/** One stream of output, read as containerd reads: consumed by whoever calls, with its windows. */
export class OutputStream {
  readonly #stream: RawStream
  #window = 0
  #text: Promise<string> | undefined
  #soFar = ''
  #progress: (() => void) | undefined
  /** Size of the largest message so far. */
  largestBytes = 0

  private constructor(stream: RawStream) {
    this.#stream = stream
  }

  /** Resolves when the agent has acknowledged the stream. */
  static async open(path: string, id: string): Promise<OutputStream> {
    const stream = new RawStream(await dialHybrid(path), id)
    if ((await stream.next()) === undefined) throw new Error(`stream ${id} was not acknowledged`)
    return new OutputStream(stream)
  }

  /** The next bytes, which then count as consumed; undefined at the end, which closes this side too. */
  async next(): Promise<Buffer | undefined> {
    if (this.#window < WINDOW_BYTES) {
      this.#stream.send(rpc.any.pack('containerd.types.transfer.WindowUpdate', { update: WINDOW_BYTES }))
      this.#window += WINDOW_BYTES
    }
    const message = await this.#stream.next()
    if (message === undefined) {
      this.#stream.close()
      return undefined
    }
    const { data } = rpc.any.unpack(message, 'containerd.types.transfer.Data')
    this.#window -= data.length
    this.largestBytes = Math.max(this.largestBytes, data.length)
    return data
  }

  /** Everything up to the end. Reading begins with the first call, and goes on whether or not anybody waits for it. */
  text(): Promise<string> {
    this.#text ??= this.#collect()
    return this.#text
  }

  async #collect(): Promise<string> {
    const parts: Buffer[] = []
    for (let data = await this.next(); data !== undefined; data = await this.next()) {
      parts.push(Buffer.from(data))
      this.#soFar += data.toString()
      this.#progress?.()
    }
    return Buffer.concat(parts).toString()
  }

  /** Resolves once what `text` has collected so far matches. */
  async until(pattern: RegExp): Promise<void> {
    void this.text()
    while (!pattern.test(this.#soFar)) await new Promise<void>((resolve) => (this.#progress = resolve))
  }

  /** Receives a message and consumes none of it, as a containerd that is killed at this moment. */
  async peek(): Promise<void> {
    await this.#stream.next()
  }

  /** Half-close: all that containerd up to 2.2 says when it gives a container's output up. */
  end(): void {
    this.#stream.close()
  }

  /** As when containerd is killed. */
  drop(): void {
    this.#stream.drop()
  }

  /** Resolves when the agent has ended the connection. */
  get over(): Promise<void> {
    return this.#stream.over
  }
}

/** One stream of input, sent within the credit the agent gives. */
export class InputStream {
  readonly #stream: RawStream
  #credit = 0
  #wake: (() => void) | undefined
  /** Set when the agent wants no more. */
  ended = false

  private constructor(stream: RawStream) {
    this.#stream = stream
    void this.#receive()
  }

  static async open(path: string, id: string): Promise<InputStream> {
    const stream = new RawStream(await dialHybrid(path), id)
    if ((await stream.next()) === undefined) throw new Error(`stream ${id} was not acknowledged`)
    return new InputStream(stream)
  }

  async #receive(): Promise<void> {
    try {
      for (let message = await this.#stream.next(); message !== undefined; message = await this.#stream.next()) {
        this.#credit += rpc.any.unpack(message, 'containerd.types.transfer.WindowUpdate').update
        this.#wake?.()
      }
    } catch {
      // The agent refused the stream: the end of it, as any other.
    }
    this.ended = true
    this.#stream.close()
    this.#wake?.()
  }

  /** Bytes that may be sent now. */
  get credit(): number {
    return this.#credit
  }

  /** Sends all of it, as credit comes. */
  async write(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length && !this.ended; ) {
      if (this.#credit === 0) {
        const { promise, resolve } = Promise.withResolvers<void>()
        this.#wake = resolve
        await promise
        continue
      }
      const data = bytes.subarray(at, at + Math.min(this.#credit, DATA_BYTES_MAX))
      this.#credit -= data.length
      at += data.length
      this.#stream.send(rpc.any.pack('containerd.types.transfer.Data', { data }))
    }
  }

  /** Half-close: the end of the input. */
  end(): void {
    this.#stream.close()
  }

  drop(): void {
    this.#stream.drop()
  }

  get over(): Promise<void> {
    return this.#stream.over
  }
}

export interface Wanted {
  readonly stdin?: boolean
  readonly stdout?: boolean
  readonly stderr?: boolean
  readonly terminal?: boolean
  /** Leaves reading the output to the test; otherwise it is read as it comes, as containerd does. */
  readonly manual?: boolean
  /** Size of the terminal, columns and rows, set before the start. */
  readonly size?: readonly [number, number]
}

export interface Streams {
  readonly stdin: InputStream | undefined
  readonly stdout: OutputStream | undefined
  readonly stderr: OutputStream | undefined
}

/** A container's connection and streams, as containerd holds them. */
export class TaskClient implements Disposable {
  readonly id: string
  readonly calls: TaskCalls
  readonly #path: string
  readonly #client: TtrpcClient
  readonly #streams: Streams[] = []

  private constructor(path: string, id: string, client: TtrpcClient) {
    this.#path = path
    this.id = id
    this.#client = client
    this.calls = client.calls(rpc.task)
  }

  static async connect(path: string, id: string): Promise<TaskClient> {
    return new TaskClient(path, id, new TtrpcClient(await dialHybrid(path)))
  }

  /** The address of a stream as containerd writes it into Create and Exec. */
  address(stream: string): string {
    return `ttrpc+hvsock://${this.#path}:1024?streaming_id=${stream}`
  }

  /** Opens streams; stdout first, then stderr, then stdin. */
  async open(id: string, wanted: Wanted): Promise<Streams> {
    const stdout = wanted.stdout === false ? undefined : await OutputStream.open(this.#path, `${id}-stdout`)
    const stderr = wanted.stderr === false || wanted.terminal === true ? undefined : await OutputStream.open(this.#path, `${id}-stderr`)
    const stdin = wanted.stdin === true ? await InputStream.open(this.#path, `${id}-stdin`) : undefined
    const streams = { stdin, stdout, stderr }
    this.#streams.push(streams)
    if (wanted.manual !== true) for (const output of [stdout, stderr]) output?.text().catch(() => {})
    return streams
  }

  stdio(id: string, streams: Streams, terminal: boolean) {
    const address = (name: 'stdin' | 'stdout' | 'stderr') => (streams[name] === undefined ? '' : this.address(`${id}-${name}`))
    return { stdin: address('stdin'), stdout: address('stdout'), stderr: address('stderr'), terminal }
  }

  /** Streams, Create, Connect, State. */
  async create(wanted: Wanted = {}): Promise<Streams> {
    const streams = await this.open(this.id, wanted)
    await this.calls.Create({ id: this.id, bundle: `/bundles/${this.id}`, ...this.stdio(this.id, streams, wanted.terminal === true) })
    await this.calls.Connect({ id: this.id })
    await this.calls.State({ id: this.id }, { timeoutMs: 2000 })
    return streams
  }

  /** Wait and Start at once, as containerd races them. The answer is Wait's. */
  async start(): Promise<{ readonly pid: number; readonly exit: Promise<number> }> {
    const exit = this.wait()
    exit.catch(() => {})
    const { pid } = await this.calls.Start({ id: this.id })
    return { pid, exit }
  }

  async wait(execId = ''): Promise<number> {
    return (await this.calls.Wait({ id: this.id, execId })).exitStatus
  }

  async status(execId = ''): Promise<string> {
    return (await this.calls.State({ id: this.id, execId }, { timeoutMs: 2000 })).status
  }

  /** Exec with its streams. */
  async addExec(execId: string, args: readonly string[], wanted: Wanted = {}): Promise<Streams> {
    const streams = await this.open(execId, wanted)
    const process = { args, cwd: '/', env: ['PATH=/bin'], user: { uid: 0, gid: 0 }, terminal: wanted.terminal === true }
    const spec = { type_url: PROCESS_TYPE, value: Buffer.from(JSON.stringify(process)) }
    await this.calls.Exec({ id: this.id, execId, spec, ...this.stdio(execId, streams, wanted.terminal === true) })
    return streams
  }

  /** Exec with its streams, then Wait beside Start. */
  async exec(execId: string, args: readonly string[], wanted: Wanted = {}) {
    const streams = await this.addExec(execId, args, wanted)
    const [width, height] = wanted.size ?? []
    if (width !== undefined && height !== undefined) await this.calls.ResizePty({ id: this.id, execId, width, height })
    const exit = this.wait(execId)
    exit.catch(() => {})
    await this.calls.Start({ id: this.id, execId })
    return { ...streams, exit }
  }

  async kill(signal: number, all = false, execId = ''): Promise<void> {
    await this.calls.Kill({ id: this.id, execId, signal, all })
  }

  async update(resources: object): Promise<void> {
    await this.calls.Update({ id: this.id, resources: { type_url: RESOURCES_TYPE, value: Buffer.from(JSON.stringify(resources)) } })
  }

  async delete(execId = ''): Promise<number> {
    return (await this.calls.Delete({ id: this.id, execId })).exitStatus
  }

  [Symbol.dispose](): void {
    for (const { stdin, stdout, stderr } of this.#streams) {
      stdin?.drop()
      stdout?.drop()
      stderr?.drop()
    }
    this.#client.close()
  }
}

/** The sandboxer's side of the agent's own service. */
export async function connectAgent(path: string): Promise<{ readonly calls: AgentCalls } & Disposable> {
  const client = new TtrpcClient(await dialHybrid(path))
  return { calls: client.calls(rpc.agent), [Symbol.dispose]: () => client.close() }
}
