/**
 * The PID namespace of a pod that shares one. Its first process is `init pause`, which reaps what the containers leave
 * behind; it is started for the first container that wants it and lives as long as the VM.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { RuntimeError } from '#shared/errors.ts'

/** Forking in a fresh namespace takes milliseconds. */
const START_MS_MAX = 10_000

export class PodPidNamespace {
  readonly #command: readonly string[]
  #pid: Promise<number> | undefined

  /** `command` makes the namespace and prints the pid of its first process. */
  constructor(command: readonly string[]) {
    this.#command = command
  }

  /** What a container joins. */
  async path(): Promise<string> {
    this.#pid ??= this.#start()
    try {
      return `/proc/${await this.#pid}/ns/pid`
    } catch (error) {
      this.#pid = undefined
      throw error
    }
  }

  async #start(): Promise<number> {
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
