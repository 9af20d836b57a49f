/**
 * The PID namespace of a pod that shares one. Its first process is `init pause`, which reaps what the containers leave
 * behind; it is started for the first container that wants it and lives as long as the VM, unless someone with power over
 * the guest kills it. Then its containers die with it, and the next one gets a new namespace.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { RuntimeError } from '#shared/errors.ts'

/** Forking in a fresh namespace takes milliseconds. */
const START_MS_MAX = 10_000

/** How the end of a process that is PID 1's to reap is heard. */
interface Exits {
  claim(pid: number, sinceNanos: bigint): Promise<unknown>
}

export class PodPidNamespace {
  readonly #command: readonly string[]
  readonly #exits: Exits
  readonly #bootTimeNanos: () => bigint
  #pid: Promise<number> | undefined

  /** `command` makes the namespace and prints the pid of its first process, an orphan. */
  constructor(command: readonly string[], exits: Exits, bootTimeNanos: () => bigint) {
    this.#command = command
    this.#exits = exits
    this.#bootTimeNanos = bootTimeNanos
  }

  /** What a container joins. */
  async path(): Promise<string> {
    this.#pid ??= this.#start()
    return `/proc/${await this.#pid}/ns/pid`
  }

  #start(): Promise<number> {
    const sinceNanos = this.#bootTimeNanos()
    const starting = this.#spawn()
    const forget = () => {
      if (this.#pid === starting) this.#pid = undefined
    }
    starting.then((pid) => this.#exits.claim(pid, sinceNanos)).then(forget, forget)
    return starting
  }

  async #spawn(): Promise<number> {
    const [file = '', ...args] = this.#command
    const about = `the pod's PID namespace (${this.#command.join(' ')})`
    const { stdout } = await promisify(execFile)(file, args, { timeout: START_MS_MAX }).catch((cause: unknown) => {
      throw new RuntimeError('INTERNAL', `${about} cannot be made`, { cause })
    })
    const pid = Number(stdout.trim())
    if (!Number.isInteger(pid) || pid <= 0) throw new RuntimeError('INTERNAL', `${about}: ${JSON.stringify(stdout)} is no pid`)
    return pid
  }
}
