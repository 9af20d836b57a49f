/**
 * A disposable node: a modern Debian host with stock containerd in its own mount, pid, network, ipc, uts and cgroup
 * namespaces. Several run side by side. It ends with the process that started it, whatever ends that, and leaves no
 * process, mount, namespace, cgroup or directory; what a SIGKILL of the starter leaves, the next start collects.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { cp, mkdir, readFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { execa } from 'execa'
import { containerdSeed, ensureBuilt } from './built.ts'
import { makeCgroups } from './cgroup.ts'
import { collectDeadNodes, removeNode } from './collect.ts'
import { enterCommand, type EnterOptions, type Entrance } from './enter.ts'
import { forwardPort, type Forward } from './forward.ts'
import { newName } from './name.ts'
import { checkout, runDir } from './paths.ts'
import { rootDir } from './root.ts'
import { startService, type Service, type ServiceOptions } from './service.ts'

export interface ExecOptions extends EnterOptions {
  readonly input?: string | Uint8Array
  /** Kills the program; the result then has an exit code of 137. */
  readonly signal?: AbortSignal
}

export interface ExecResult {
  readonly stdout: string
  readonly stderr: string
  /** 128 + n for a death by signal n, as a shell has it. */
  readonly exitCode: number
}

export interface TestNode extends AsyncDisposable {
  /** Unique on the machine; also its cgroups' name. */
  readonly name: string
  /** The node's own directory on the outer machine. */
  readonly dir: string
  /** The node's PID 1, as the outer machine sees it. */
  readonly pid: number
  /** The node's cgroup in every hierarchy of the outer machine. */
  readonly cgroups: readonly string[]
  /** Resolves when the node has ended and is tidied up, by disposal or otherwise. */
  readonly ended: Promise<void>
  /** The outer path of an absolute path inside. Good for files and for sockets (107 bytes at most). */
  path(inside: string): string
  /** Runs a program inside to its end. A failing exit status is a result, not an error. */
  exec(command: string, args?: readonly string[], options?: ExecOptions): Promise<ExecResult>
  /** Like exec, but a failing exit status is an error that carries the output. Answers standard output. */
  run(command: string, args?: readonly string[], options?: ExecOptions): Promise<string>
  /** Everything that start() started, the ended ones included. */
  readonly services: readonly Service[]
  /** Starts a long-running program inside. Its log is `<dir>/scratch/logs/<name>.log`. */
  start(options: ServiceOptions): Promise<Service>
  /** A port of this process's loopback that leads to `port` on the node's. One per port, closed with the node. */
  forward(port: number): Promise<number>
}

/** From unshare to a root that is ready. */
const readyMsMax = 30_000

export interface NodeOptions {
  /** False for a containerd that knows no images. Default: the test images. */
  readonly images?: boolean
}

/** Starts a node. What it starts from is built first when it is not there yet, which takes about half a minute. */
export async function startNode(options: NodeOptions = {}): Promise<TestNode> {
  const { images = true } = options
  if (process.getuid?.() !== 0) throw new Error('a test node needs root: namespaces, mounts and /dev/kvm or TCG')
  if (images) await ensureBuilt()
  await collectDeadNodes()
  const name = newName()
  const dir = join(runDir, name)
  await mkdir(join(dir, 'scratch/logs'), { recursive: true })
  try {
    const cgroups = await makeCgroups(name)
    const { top, pid } = await enter(name, dir, cgroups, images)
    return createNode(name, dir, { pid, cgroups }, top)
  } catch (error) {
    await removeNode(name)
    throw error
  }
}

interface Top {
  /** The process whose death is the node's. */
  readonly top: ChildProcess
  readonly pid: number
}

/** Runs enter.sh until it says ready. */
async function enter(name: string, dir: string, cgroups: string[], images: boolean): Promise<Top> {
  const logFile = join(dir, 'scratch/logs/enter.log')
  const log = openSync(logFile, 'a')
  const script = join(import.meta.dirname, 'enter.sh')
  const top = spawn('setpriv', ['--pdeathsig', 'KILL', '--', script, 'outer'], {
    stdio: ['ignore', 'pipe', log],
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      NODE_DIR: dir,
      NODE_ROOT: rootDir,
      NODE_CHECKOUT: checkout,
      NODE_SEED: images ? containerdSeed : '',
      NODE_NAME: name,
      NODE_CGROUPS: cgroups.join(':'),
    },
  })
  closeSync(log)
  const timer = setTimeout(() => top.kill('SIGKILL'), readyMsMax)
  try {
    for await (const line of createInterface({ input: top.stdout ?? Readable.from([]) })) {
      const pid = /^ready (\d+)$/.exec(line)?.[1]
      if (pid !== undefined) return { top, pid: Number(pid) }
    }
  } finally {
    clearTimeout(timer)
  }
  throw new Error(`the node could not be set up:\n${await readFile(logFile, 'utf8')}`)
}

function createNode(name: string, dir: string, entrance: Entrance, top: ChildProcess): TestNode {
  const services: Service[] = []
  const ended = new Promise<void>((resolve, reject) => {
    const settle = () => void tidy(name, dir, services).then(resolve, reject)
    if (top.exitCode !== null || top.signalCode !== null) settle()
    else top.once('exit', settle)
  })
  // Who does not await it learns of a failure from dispose.
  ended.catch(() => {})

  const forwards = new Map<number, Promise<Forward>>()
  const node: TestNode = {
    name,
    dir,
    pid: entrance.pid,
    cgroups: entrance.cgroups,
    services,
    ended,
    path: (inside) => `/proc/${entrance.pid}/root${inside}`,
    async exec(command, args = [], options = {}) {
      const entering = enterCommand(entrance, command, args, options)
      const result = await execa(entering.file, entering.args, {
        reject: false,
        stripFinalNewline: false,
        input: options.input ?? '',
        extendEnv: false,
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
        forceKillAfterDelay: false,
        ...(options.signal === undefined ? {} : { cancelSignal: options.signal, killSignal: 'SIGKILL' as const }),
      })
      const exitCode = result.exitCode ?? (result.signal === undefined ? 137 : 128 + signalNumber(result.signal))
      return { stdout: result.stdout, stderr: result.stderr, exitCode }
    },
    async run(command, args = [], options = {}) {
      const { stdout, stderr, exitCode } = await node.exec(command, args, options)
      if (exitCode === 0) return stdout
      throw new Error(`${command} ${args.join(' ')} ended with ${exitCode}:\n${stdout}${stderr}`)
    },
    async forward(port) {
      const forward = forwards.get(port) ?? forwardPort(entrance, port)
      forwards.set(port, forward)
      return (await forward).port
    },
    async start(options) {
      const service = await startService(entrance, join(dir, `scratch/logs/${options.name}.log`), options)
      services.push(service)
      return service
    },
    async [Symbol.asyncDispose]() {
      for (const forward of forwards.values()) (await forward).close()
      // Not `top`: it stays to reap what it started, so that not even a zombie is left.
      if (top.exitCode === null && top.signalCode === null) process.kill(entrance.pid, 'SIGKILL')
      await ended
    },
  }
  return node
}

function signalNumber(signal: NodeJS.Signals): number {
  return constants.signals[signal]
}

/** What remains to do once the node's processes are dead. */
async function tidy(name: string, dir: string, services: readonly Service[]): Promise<void> {
  // A service's parent is outside the node and reaps it a moment after the node's end.
  await Promise.all(services.map((service) => service.exited))
  await keepLogs(name, dir)
  await removeNode(name)
}

/** With KUASAR_NODE_LOGS set, what the node's services said survives it there. */
async function keepLogs(name: string, dir: string): Promise<void> {
  const keep = process.env['KUASAR_NODE_LOGS']
  if (keep !== undefined) await cp(join(dir, 'scratch/logs'), join(keep, name), { recursive: true })
}
