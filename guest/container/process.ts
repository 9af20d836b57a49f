/** One process of a container through its life (state.ts), and the promise that is containerd's Wait. */
import { RuntimeError } from '#shared/errors.ts'
import { type ProcessIdentity, signalProcess } from '../runtime/signal.ts'
import type { ProcessIo } from './io.ts'
import { assertAllowed, type Exit, hasExited, type Operation, type ProcessState } from './state.ts'
import type { Stdio } from './stdio.ts'
import { Turns } from './turns.ts'

/** The exit status of a process that never ran. */
export const NEVER_RAN = 255

/** What is left of a process that was deleted. */
export interface Ended {
  readonly pid: number
  readonly exit: Exit
}

export interface ProcessHooks {
  /** The kernel let the process go; Wait is answered when this, and the output, is done. Never rejects. */
  exited(exit: Exit): Promise<void>
  /** Wait is about to be answered. */
  stopped(process: Process, exit: Exit): void
}

export class Process {
  /** "container X" or "exec Y in container X", for messages. */
  readonly name: string
  readonly stdio: Stdio
  readonly turns: Turns
  /** What Wait answers. Never rejects. */
  readonly stopped: Promise<Exit>
  /** The kernel's own word, before any output is waited for. Never rejects. */
  readonly exited: Promise<Exit>
  readonly #io: ProcessIo
  readonly #hooks: ProcessHooks
  readonly #resolveExited: (exit: Exit) => void
  readonly #resolveStopped: (exit: Exit) => void
  #state: ProcessState
  #identity: ProcessIdentity | undefined

  /** `identity` undefined: not running yet (an exec before its start). */
  constructor(name: string, stdio: Stdio, io: ProcessIo, identity: ProcessIdentity | undefined, hooks: ProcessHooks) {
    this.name = name
    this.stdio = stdio
    this.turns = new Turns(name)
    this.#io = io
    this.#hooks = hooks
    this.#state = { kind: 'created', pid: identity?.pid ?? 0 }
    this.#identity = identity
    const exited = Promise.withResolvers<Exit>()
    const stopped = Promise.withResolvers<Exit>()
    this.exited = exited.promise
    this.#resolveExited = exited.resolve
    this.stopped = stopped.promise
    this.#resolveStopped = stopped.resolve
  }

  get state(): ProcessState {
    return this.#state
  }

  get io(): ProcessIo {
    return this.#io
  }

  assert(operation: Operation): void {
    assertAllowed(this.#state, operation, this.name)
  }

  /** The process runs: an init was started, or an exec got its pid. */
  running(identity = this.#identity): void {
    if (this.#state.kind !== 'created' || identity === undefined) return
    this.#identity = identity
    this.#state = { kind: 'running', pid: identity.pid }
  }

  frozen(paused: boolean): void {
    const { kind, pid } = this.#state
    if (paused && kind === 'running') this.#state = { kind: 'paused', pid }
    if (!paused && kind === 'paused') this.#state = { kind: 'running', pid }
  }

  /** Sends a signal. NOT_FOUND when the process is gone. */
  signal(signal: number): void {
    this.assert('kill')
    if (this.#identity === undefined) throw new RuntimeError('FAILED_PRECONDITION', `kill of ${this.name}: it has not been started`)
    signalProcess(this.#identity, signal)
  }

  /** Takes the exit, in turn after whatever is being done to the process. */
  async exit(exit: Promise<Exit>): Promise<void> {
    const ended = await exit
    await this.turns.runAlways(async () => this.end(ended))
  }

  /** The process is gone, or will never run. Only for use in a turn. */
  end(exit: Exit): void {
    if (hasExited(this.#state)) return
    const { pid } = this.#state
    this.#state = { kind: 'draining', pid, exit }
    this.#resolveExited(exit)
    void this.#settle(pid, exit)
  }

  async #settle(pid: number, exit: Exit): Promise<void> {
    await Promise.all([this.#io.delivered(), this.#hooks.exited(exit)])
    this.#state = { kind: 'stopped', pid, exit }
    this.#hooks.stopped(this, exit)
    this.#resolveStopped(exit)
  }

  /** Forgets the output nobody read, and the process. It must have exited. */
  async remove(): Promise<Ended> {
    await this.#io.discard()
    const exit = await this.stopped
    const { pid } = this.#state
    this.#state = { kind: 'deleted', pid, exit }
    return { pid, exit }
  }
}
