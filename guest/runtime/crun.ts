/**
 * crun as a child process per operation.
 *
 * crun takes and leaves small files (process, pid, log) in the bundle. They are on a tmpfs, where a call takes
 * microseconds and a hand-over to the thread pool many times that, so they are touched synchronously.
 */
import { openSync, readFileSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { RuntimeError } from '#shared/errors.ts'
import type { Child, Processes } from '#shared/os/contract.ts'
import { runtimeFailure } from './failure.ts'
import type { CreateRequest, ExecRequest, OciRuntime, ProcessFds } from './runtime.ts'

/** crun answers in milliseconds; one that does not is stuck in the kernel or on a file system. */
export const RUN_MS_MAX = 120_000

const env = {
  PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
  // So that no container can write to the crun that serves it, crun starts itself once more from a read-only bind mount,
  // which takes half of its time. With this word it first looks whether its file system is read-only; the image's is.
  _LIBCONTAINER_CLONED_BINARY: '1',
}

const OOM_SCORE_ADJ = '/proc/self/oom_score_adj'

interface Run {
  readonly operation: string
  readonly containerId: string
  readonly args: readonly string[]
  /** Where its log goes while it runs. */
  readonly logPath: string
  readonly command?: string
  readonly stdio?: ProcessFds | undefined
  readonly oomScoreAdj?: number
}

export class Crun implements OciRuntime {
  readonly #binary: string
  readonly #root: string
  readonly #processes: Pick<Processes, 'spawn'>
  #runs = 0

  /** `root`: where crun keeps the state of its containers. */
  constructor(binary: string, root: string, processes: Pick<Processes, 'spawn'>) {
    this.#binary = binary
    this.#root = root
    this.#processes = processes
  }

  async create(request: CreateRequest): Promise<number> {
    const { containerId, bundle, command } = request
    const pidFile = `${bundle}/init.pid`
    const args = ['create', '--bundle', bundle, '--pid-file', pidFile, ...consoleArgs(request), containerId]
    await this.#run({ operation: 'create container', containerId, command, args, logPath: this.#log(bundle), stdio: request.fds })
    return takePid(pidFile)
  }

  async start(containerId: string, bundle: string): Promise<void> {
    await this.#run({ operation: 'start container', containerId, args: ['start', containerId], logPath: this.#log(bundle) })
  }

  async exec(request: ExecRequest): Promise<number> {
    const { containerId, bundle, command, execId, oomScoreAdj } = request
    const [pidFile, processFile] = [`${bundle}/exec-${execId}.pid`, `${bundle}/exec-${execId}.json`]
    writeFileSync(processFile, request.process, { mode: 0o600 })
    const args = ['exec', '--process', processFile, '--pid-file', pidFile, '--detach', ...consoleArgs(request), containerId]
    try {
      const logPath = this.#log(bundle)
      await this.#run({ operation: 'exec in container', containerId, command, args, logPath, stdio: request.fds, oomScoreAdj })
      return takePid(pidFile)
    } finally {
      removeFile(processFile)
    }
  }

  async pause(containerId: string, bundle: string): Promise<void> {
    await this.#run({ operation: 'pause container', containerId, args: ['pause', containerId], logPath: this.#log(bundle) })
  }

  async resume(containerId: string, bundle: string): Promise<void> {
    await this.#run({ operation: 'resume container', containerId, args: ['resume', containerId], logPath: this.#log(bundle) })
  }

  async update(containerId: string, bundle: string, resources: string): Promise<void> {
    // From a file: crun opens /dev/stdin by name, which fails for the sockets that Node gives a child.
    const file = `${bundle}/update-${++this.#runs}.json`
    writeFileSync(file, resources, { mode: 0o600 })
    const args = ['update', '--resources', file, containerId]
    try {
      await this.#run({ operation: 'update container', containerId, args, logPath: this.#log(bundle) })
    } finally {
      removeFile(file)
    }
  }

  async delete(containerId: string, bundle: string): Promise<void> {
    await this.#run({ operation: 'delete container', containerId, args: ['delete', '--force', containerId], logPath: this.#log(bundle) })
  }

  #log(bundle: string): string {
    return `${bundle}/crun-${++this.#runs}.log`
  }

  async #run(run: Run): Promise<void> {
    const { operation, containerId, args, logPath, oomScoreAdj, stdio } = run
    const all = ['--root', this.#root, '--cgroup-manager', 'cgroupfs', '--log', logPath, '--log-format', 'json', ...args]
    let child: Child
    try {
      child = withOomScore(oomScoreAdj, () => this.#processes.spawn({ file: this.#binary, args: all, env, stdio }))
    } catch (cause) {
      throw new RuntimeError('INTERNAL', `${operation} ${containerId}: ${this.#binary} does not start`, { cause })
    }
    const timer = setTimeout(() => child.kill(), RUN_MS_MAX)
    try {
      const ending = await child.ended
      if (ending.exitCode === 0) return
      throw runtimeFailure({ operation, containerId, command: run.command, ...ending, log: readText(logPath) })
    } finally {
      clearTimeout(timer)
      removeFile(logPath)
    }
  }
}

function consoleArgs({ consoleSocket }: CreateRequest): string[] {
  return consoleSocket === undefined ? [] : ['--console-socket', consoleSocket]
}

function takePid(path: string): number {
  const pid = Number(readText(path))
  removeFile(path)
  if (!Number.isInteger(pid) || pid <= 0) throw new RuntimeError('INTERNAL', `crun wrote no pid to ${path}`)
  return pid
}

/** The file's text; empty when there is none. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function removeFile(path: string): void {
  try {
    unlinkSync(path)
  } catch {
    // crun did not get as far as making it.
  }
}

/**
 * `crun exec` passes its own badness on to the process it starts, and the agent's protects it from the OOM killer. The
 * child has its own when spawn returns, so the agent's own score is different only for the length of that call.
 */
function withOomScore<T>(score: number | undefined, fork: () => T): T {
  if (score === undefined) return fork()
  own ??= { score: Number(readFileSync(OOM_SCORE_ADJ, 'utf8')), fd: openSync(OOM_SCORE_ADJ, 'w') }
  if (own.score === score) return fork()
  writeSync(own.fd, String(score))
  try {
    return fork()
  } finally {
    writeSync(own.fd, String(own.score))
  }
}

/** The agent's own badness, which nobody else changes, and the file that holds it, for good. */
let own: { readonly score: number; readonly fd: number } | undefined
