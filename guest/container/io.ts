/**
 * A process's stdin, stdout and stderr: pipes or a terminal on one side, containerd's streams on the other.
 *
 * Pipes are real ones, since programs reopen /dev/stdout, which a socket refuses. Descriptors the process inherits are
 * held only until the OCI runtime has them.
 */
import { closeSync, openSync } from 'node:fs'
import type { Socket } from 'node:net'
import { RuntimeError } from '#shared/errors.ts'
import type { ConsoleListener, Os } from '#shared/os/contract.ts'
import type { ProcessFds } from '../runtime/runtime.ts'
import { Input, type InputPolicy } from '../streams/input.ts'
import { Output, type OutputPolicy } from '../streams/output.ts'
import type { Endpoint, StreamRegistry } from '../streams/registry.ts'
import { type Stdio, type StdioPlan, streamIds } from './stdio.ts'

/** How long the OCI runtime may take, after it has returned, to have sent the terminal. */
const CONSOLE_MS_MAX = 10_000

/** What stdio is made with; one per agent. */
export interface IoContext {
  readonly os: Os
  readonly streams: StreamRegistry
  /** Directory for console sockets; short, since their paths end at 107 bytes. */
  readonly consoleDir: string
}

export interface IoPolicy {
  readonly output: OutputPolicy
  readonly input: InputPolicy
}

export interface TerminalSize {
  readonly columns: number
  readonly rows: number
}

let consoles = 0

export class ProcessIo {
  readonly #plan: StdioPlan
  readonly #context: IoContext
  readonly #policy: IoPolicy
  readonly #outputs: Output[] = []
  readonly #bindings: Disposable[] = []
  /** A terminal's streams wait until there is one, which may be never. */
  readonly #letGo: () => void
  #input: Input | undefined
  #childFds: ProcessFds | undefined
  #console: { readonly path: string; readonly listener: ConsoleListener } | undefined
  #terminal: { readonly fd: number; readonly stream: Socket } | undefined
  #size: TerminalSize | undefined

  private constructor(plan: StdioPlan, context: IoContext, policy: IoPolicy) {
    this.#plan = plan
    this.#context = context
    this.#policy = policy
    this.#letGo = plan.terminal ? waiting(plan, context.streams, policy) : () => {}
  }

  /** Opens pipes, or a console socket for a terminal. Errors leave nothing open. */
  static async open(plan: StdioPlan, context: IoContext, policy: IoPolicy): Promise<ProcessIo> {
    const io = new ProcessIo(plan, context, policy)
    try {
      if (plan.terminal) await io.#listenConsole()
      else io.#openPipes()
      return io
    } catch (error) {
      await io.discard()
      throw error
    }
  }

  /** The streams that wait for a process now; what is returned brings them to their ends, should it not be made after all. */
  static waiting(stdio: Stdio, { streams }: IoContext, policy: IoPolicy): () => void {
    return waiting(streamIds(stdio), streams, policy)
  }

  /** The streams of a process that is deleted are at their ends until it is disposed of; not those that another has by now. */
  static ended(stdio: Stdio, { streams }: IoContext, policy: IoPolicy): Disposable {
    const { stdin, stdout, stderr } = streamIds(stdio)
    const bound = new DisposableStack()
    const bind = (id: string | undefined, endpoint: () => Endpoint) => {
      if (id !== undefined && !streams.has(id)) bound.use(streams.bind(id, endpoint()))
    }
    bind(stdin, () => ({ kind: 'input', input: Input.none() }))
    for (const id of [stdout, stderr]) bind(id, () => ({ kind: 'output', output: Output.none(policy.output) }))
    return bound
  }

  /** For the OCI runtime; undefined with a terminal. */
  get fds(): ProcessFds | undefined {
    return this.#childFds
  }

  /** The size asked for last. A process made with it from the start never sees another. */
  get size(): TerminalSize | undefined {
    return this.#size
  }

  get consoleSocket(): string | undefined {
    return this.#console?.path
  }

  /** The OCI runtime has made the process: takes the terminal and lets go of the process's own descriptors. */
  async handedOver(): Promise<void> {
    this.#closeChildFds()
    if (this.#console === undefined) return
    const fd = await this.#console.listener.receive(AbortSignal.timeout(CONSOLE_MS_MAX)).catch((cause: unknown) => {
      throw new RuntimeError('INTERNAL', 'the OCI runtime sent no terminal', { cause })
    })
    const stream = this.#context.os.descriptors.stream(fd, 'duplex')
    this.#terminal = { fd, stream }
    stream.once('close', () => (this.#terminal = undefined))
    await this.#closeConsole()
    if (this.#size !== undefined) this.resize(this.#size.columns, this.#size.rows)
    this.#bindOutput(this.#plan.stdout, stream)
    this.#bindInput(this.#plan.stdin, stream, true)
  }

  /** Sets the terminal's size, now or as soon as there is one. Without a terminal: FAILED_PRECONDITION. */
  resize(columns: number, rows: number): void {
    if (!this.#plan.terminal) throw new RuntimeError('FAILED_PRECONDITION', 'the process has no terminal to resize')
    this.#size = { columns, rows }
    if (this.#terminal !== undefined) this.#context.os.terminals.resize(this.#terminal.fd, columns, rows)
  }

  closeStdin(): void {
    this.#input?.closeSoon()
  }

  /** The process is gone: resolves once its output is with its reader. */
  async delivered(): Promise<void> {
    // Nobody reads input any more; writing it to a dead terminal would only break the reading of what it printed last.
    this.#input?.end()
    for (const output of this.#outputs) output.processExited()
    await Promise.all(this.#outputs.map((output) => output.delivered))
    this.#input?.discard()
  }

  /** Closes everything, whatever was read of it. Idempotent. */
  async discard(): Promise<void> {
    this.#closeChildFds()
    for (const binding of this.#bindings.splice(0)) binding[Symbol.dispose]()
    this.#letGo()
    for (const output of this.#outputs) output.discard()
    this.#input?.discard()
    this.#terminal?.stream.destroy()
    await this.#closeConsole()
  }

  async #listenConsole(): Promise<void> {
    const path = `${this.#context.consoleDir}/${++consoles}.sock`
    this.#console = { path, listener: await this.#context.os.terminals.listenConsole(path) }
  }

  async #closeConsole(): Promise<void> {
    const listening = this.#console
    this.#console = undefined
    await listening?.listener[Symbol.asyncDispose]()
  }

  #openPipes(): void {
    const { stdin, stdout, stderr } = this.#plan
    const fds: { -readonly [K in keyof ProcessFds]: number } = { stdin: -1, stdout: -1, stderr: -1 }
    this.#childFds = fds
    if (stdin === undefined) fds.stdin = openSync('/dev/null', 'r')
    else this.#inputPipe(stdin, (fd) => (fds.stdin = fd))
    if (stdout === undefined) fds.stdout = openSync('/dev/null', 'w')
    else this.#outputPipe(stdout, (fd) => (fds.stdout = fd))
    if (stderr === undefined) fds.stderr = openSync('/dev/null', 'w')
    else this.#outputPipe(stderr, (fd) => (fds.stderr = fd))
  }

  /** `keep` has the process's end before anything can fail: another process may have the stream. */
  #inputPipe(id: string, keep: (fd: number) => void): void {
    const { readFd, writeFd } = this.#context.os.descriptors.pipe()
    keep(readFd)
    this.#bindInput(id, this.#context.os.descriptors.stream(writeFd, 'write'), false)
  }

  #outputPipe(id: string, keep: (fd: number) => void): void {
    const { readFd, writeFd } = this.#context.os.descriptors.pipe()
    keep(writeFd)
    this.#bindOutput(id, this.#context.os.descriptors.stream(readFd, 'read'))
  }

  /** A terminal nobody reads is still read, or the process would block on it. */
  #bindOutput(id: string | undefined, source: Socket): void {
    if (id === undefined) {
      source.on('error', () => {}).resume()
      return
    }
    const output = new Output(source, this.#policy.output)
    this.#outputs.push(output)
    this.#bind(id, { kind: 'output', output })
  }

  #bindInput(id: string | undefined, sink: Socket, terminal: boolean): void {
    if (id === undefined) return
    const input = new Input(sink, this.#policy.input, terminal)
    this.#input = input
    this.#bind(id, { kind: 'input', input })
  }

  #bind(id: string, endpoint: Endpoint): void {
    this.#bindings.push(this.#context.streams.bind(id, endpoint))
  }

  #closeChildFds(): void {
    const fds = this.#childFds
    this.#childFds = undefined
    if (fds === undefined) return
    for (const fd of [fds.stdin, fds.stdout, fds.stderr]) if (fd >= 0) closeSync(fd)
  }
}

/** The streams that wait under these ids now; what is returned brings them to their ends, if they still do. */
function waiting({ stdin, stdout, stderr }: Omit<StdioPlan, 'terminal'>, streams: StreamRegistry, policy: IoPolicy): () => void {
  const waiters = (id: string | undefined) => (id === undefined ? () => {} : streams.waiters(id))
  const giveInput = waiters(stdin)
  const giveOutputs = [stdout, stderr].map(waiters)
  return () => {
    giveInput({ kind: 'input', input: Input.none() })
    for (const give of giveOutputs) give({ kind: 'output', output: Output.none(policy.output) })
  }
}
