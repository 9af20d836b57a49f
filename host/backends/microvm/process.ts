/**
 * A process of a sandbox: started detached, so that it outlives the sandboxer, or found again by a later one. Its
 * death is told by the kernel (SIGCHLD for a child, a pidfd for the child of a sandboxer before), never by polling.
 */
import { spawn } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { RuntimeError, explain } from '#shared/errors.ts'
import type { Processes } from '#shared/os/contract.ts'
import { isErrno } from '#shared/os/error.ts'
import { type ProcessStat, childrenOf, isAlive, processStatNow } from '#host/sandbox/processes.ts'
import type { Command } from './driver.ts'
import { type ProcessSetting, processCommand, processEnv } from './process-argv.ts'

/** Between KILL and the end, in ms. Only a process stuck in the kernel takes longer. */
const KILL_WAIT_MS = 5_000
/** Between looks at whether a killed child has gone, in ms. */
const CHILD_POLL_MS = 2

/** How a process ended. Only a parent learns that, so both are undefined for an adopted one. */
export interface ProcessExit {
  readonly code: number | undefined
  readonly signal: string | undefined
  readonly atMs: number
}

/** "ended with code 1", "was killed by SIGKILL"; "ended" where nobody knows how. */
export function describeExit({ code, signal }: ProcessExit): string {
  if (signal !== undefined) return `was killed by ${signal}`
  return code === undefined ? 'ended' : `ended with code ${code}`
}

export interface HostProcess {
  readonly name: string
  readonly pid: number
  /** With the pid, the identity of the process: field 22 of /proc/PID/stat */
  readonly startTicks: string
  /** Resolves once. Never rejects; never resolves after `detach`. */
  readonly exited: Promise<ProcessExit>
  /** How it ended, once it has. */
  ended(): ProcessExit | undefined
  /** SIGKILL, and gone when it resolves. Errors: INTERNAL when the kernel does not let go of it. */
  kill(): Promise<void>
  /** Stops watching, so that this sandboxer may end; the process lives on. */
  detach(): void
}

export interface StartOptions extends ProcessSetting {
  readonly command: Command
  readonly dir: string
  /** Takes stdout and stderr; created 0600 or appended to */
  readonly logFile: string
}

/** Errors: INTERNAL when the machine has no room for a process (EAGAIN, EMFILE, ENOMEM). */
export function startProcess(options: StartOptions): HostProcess {
  const { name, logFile, dir } = options
  const { file, args } = processCommand(options.command, options)
  const log = openSync(logFile, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600)
  try {
    const child = spawn(file, args, { cwd: dir, env: processEnv(options), detached: true, stdio: ['ignore', log, log] })
    const exit = createExit()
    let failure: unknown
    child.on('error', (error) => (failure = error))
    child.on('exit', (code, signal) => exit.report({ code: code ?? undefined, signal: signal ?? undefined, atMs: Date.now() }))
    const { pid } = child
    if (pid === undefined) throw new RuntimeError('INTERNAL', `start ${name}: ${explain(failure ?? 'no process could be made')}`)
    // Read before the event loop can reap it: even a process that has died already still has its identity.
    return hostProcess(name, pid, processStatNow(pid)?.startTicks ?? '', exit, () => child.removeAllListeners('exit').unref())
  } finally {
    closeSync(log)
  }
}

/** Errors: NOT_FOUND when that very process is gone. */
export async function adoptProcess(
  { name, pid, startTicks }: { readonly name: string; readonly pid: number; readonly startTicks: string },
  watch: Processes['watch'],
): Promise<HostProcess> {
  const gone = () => new RuntimeError('NOT_FOUND', `${name} (pid ${pid}) is gone`)
  const exit = createExit()
  let watching
  try {
    watching = watch(pid, () => exit.report({ code: undefined, signal: undefined, atMs: Date.now() }))
  } catch (error) {
    if (isErrno(error, 'ESRCH')) throw gone()
    throw error
  }
  // Checked while the pidfd is held: from here on the watch and the identity are of the same process.
  if (!(await isAlive(pid, startTicks))) {
    watching[Symbol.dispose]()
    throw gone()
  }
  return hostProcess(name, pid, startTicks, exit, () => watching[Symbol.dispose]())
}

interface Exit {
  readonly promise: Promise<ProcessExit>
  value(): ProcessExit | undefined
  report(exit: ProcessExit): void
}

function createExit(): Exit {
  const { promise, resolve } = Promise.withResolvers<ProcessExit>()
  let value: ProcessExit | undefined
  return {
    promise,
    value: () => value,
    report(exit) {
      value ??= exit
      resolve(value)
    },
  }
}

function hostProcess(name: string, pid: number, startTicks: string, exit: Exit, unwatch: () => void): HostProcess {
  return {
    name,
    pid,
    startTicks,
    exited: exit.promise,
    ended: () => exit.value(),
    detach: unwatch,
    async kill() {
      if (exit.value() !== undefined) return
      const children = await childrenOf(pid)
      if (!signalGroup(pid)) return
      const { promise: late, reject } = Promise.withResolvers<never>()
      const timer = setTimeout(
        () => reject(new RuntimeError('INTERNAL', `${name} (pid ${pid}) is still there ${KILL_WAIT_MS} ms after SIGKILL`)),
        KILL_WAIT_MS,
      )
      await Promise.race([exit.promise, late]).finally(() => clearTimeout(timer))
      for (const child of children) await gone(child)
    },
  }
}

/** Each process leads a group, which holds what it forked (virtiofsd's second half). False when nobody is left. */
function signalGroup(pid: number): boolean {
  try {
    return process.kill(-pid, 'SIGKILL')
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return false
    throw error
  }
}

/** A killed process's child was killed with it, and is seen off: it must not still hold a mount or a socket. */
async function gone({ pid, startTicks }: ProcessStat): Promise<void> {
  for (let waitedMs = 0; waitedMs < KILL_WAIT_MS && (await isAlive(pid, startTicks)); waitedMs += CHILD_POLL_MS) await sleep(CHILD_POLL_MS)
}
