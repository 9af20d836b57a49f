/** A long-running program inside a node: its log, its readiness, its end. */

import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { childOf, enterCommand, insidePid, type EnterOptions, type Entrance } from './enter.ts'
import { poll } from './poll.ts'

export interface ServiceExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface Service {
  readonly name: string
  /** As the outer machine sees it: for `process.kill` and /proc. */
  readonly pid: number
  /** As the node sees it. */
  readonly insidePid: number
  /** On the outer machine; standard output and error, appended over restarts. */
  readonly logFile: string
  readonly exited: Promise<ServiceExit>
  readonly running: boolean
  log(): Promise<string>
  /** What its file descriptors lead to (`socket:[1234]`, a path, …): for telling a leak. */
  openFiles(): Promise<string[]>
  /** Its resident memory (VmRSS), in KiB. */
  residentKiB(): Promise<number>
  /** Sends a signal without waiting. Nothing happens to a service that is gone. */
  signal(signal: NodeJS.Signals): void
  /** Signals, waits `graceMs`, then kills. */
  stop(signal?: NodeJS.Signals, graceMs?: number): Promise<ServiceExit>
}

export interface ServiceOptions extends EnterOptions {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
  /** Asked until true; a service that ends before, or does not get there in time, is an error. */
  readonly ready?: () => Promise<boolean>
  readonly readyMsMax?: number
}

const readyMsDefault = 30_000
const graceMsDefault = 10_000
/** From the start of nsenter to its fork. */
const forkMsMax = 10_000
const logTailLines = 40

/** Starts a service and waits until it is ready. */
export async function startService(entrance: Entrance, logFile: string, options: ServiceOptions): Promise<Service> {
  const { name } = options
  mkdirSync(dirname(logFile), { recursive: true })
  const log = openSync(logFile, 'a')
  const command = enterCommand(entrance, options.command, options.args, options)
  const child = spawn(command.file, command.args, { stdio: ['ignore', log, log] })
  closeSync(log)

  let running = true
  const exited = new Promise<ServiceExit>((resolve) => {
    child.once('error', () => resolve({ code: null, signal: null }))
    child.once('exit', (code, signal) => resolve({ code, signal }))
  }).finally(() => (running = false))

  const failure = async (what: string) => {
    const tail = (await readFile(logFile, 'utf8').catch(() => '')).trimEnd().split('\n').slice(-logTailLines).join('\n')
    return new Error(`${name} ${what}: ${options.command} ${options.args.join(' ')}\n${tail}`)
  }

  const started = await poll(forkMsMax, async () => {
    if (!running || child.pid === undefined) return { pid: 0, inside: 0 }
    const pid = await childOf(child.pid)
    const inside = pid === undefined ? undefined : await insidePid(pid)
    return pid === undefined || inside === undefined ? undefined : { pid, inside }
  })
  if (started === undefined || started.pid === 0) throw await failure('could not be started')

  const service: Service = {
    name,
    pid: started.pid,
    insidePid: started.inside,
    logFile,
    exited,
    get running() {
      return running
    },
    log: () => readFile(logFile, 'utf8'),
    async openFiles() {
      const directory = `/proc/${started.pid}/fd`
      const links = (await readdir(directory)).map((fd) => readlink(`${directory}/${fd}`).catch(() => undefined))
      // A descriptor that is gone since the listing was the listing's neighbour, not a leak.
      return (await Promise.all(links)).filter((link) => link !== undefined)
    },
    async residentKiB() {
      const found = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${started.pid}/status`, 'utf8'))?.[1]
      if (found === undefined) throw new Error(`${name} (pid ${started.pid}) has ended: it has no memory`)
      return Number(found)
    },
    signal(signal) {
      if (!running) return
      kill(started.pid, signal)
      // nsenter stops itself when its child is stopped, and reports nothing until it is continued too.
      if (signal === 'SIGCONT' && child.pid !== undefined) kill(child.pid, signal)
    },
    async stop(signal = 'SIGTERM', graceMs = graceMsDefault) {
      service.signal(signal)
      const timer = setTimeout(() => service.signal('SIGKILL'), graceMs)
      const exit = await exited
      clearTimeout(timer)
      return exit
    },
  }

  const ready = await poll(options.readyMsMax ?? readyMsDefault, async () => {
    if (!running) return 'ended' as const
    return (await (options.ready?.() ?? true)) ? ('ready' as const) : undefined
  })
  if (ready === 'ready') return service
  const { code, signal } = ready === 'ended' ? await exited : { code: null, signal: null }
  await service.stop('SIGKILL')
  throw await failure(ready === 'ended' ? `ended at once (${signal ?? `exit status ${code}`})` : 'did not become ready')
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}
