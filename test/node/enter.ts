/** The command line that runs a program inside a node, from outside. */

import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { insidePath } from './paths.ts'

/** What it takes to enter a running node. */
export interface Entrance {
  /** The node's PID 1, as the outer machine sees it. */
  readonly pid: number
  /** The node's cgroup in every hierarchy. */
  readonly cgroups: readonly string[]
}

export interface EnterOptions {
  /** Working directory inside; `/` when absent. */
  readonly cwd?: string
  /** Added to PATH and HOME; nothing of the caller's environment goes in. */
  readonly env?: Readonly<Record<string, string>>
}

/** Joins the cgroups named by $1, then becomes the rest of its arguments. 0 means "the writer". */
const joinScript = 'IFS=:; for c in $1; do echo 0 >"$c/cgroup.procs" || exit 125; done; unset IFS; shift; exec "$@"'

/**
 * `command` with `args` inside the node: in its cgroups and namespaces. It dies with the process that this command
 * line starts (setpriv), which also passes its exit status on (nsenter).
 */
export function enterCommand(
  entrance: Entrance,
  command: string,
  args: readonly string[],
  options: EnterOptions = {},
): { file: string; args: string[] } {
  const cgroups = entrance.cgroups.map((path) => (existsSync(`${path}/init`) ? `${path}/init` : path))
  const env = { PATH: insidePath, HOME: '/root', TERM: 'dumb', ...options.env }
  const join = ['-c', joinScript, 'sh', cgroups.join(':')]
  const namespaces = ['--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup']
  const nsenter = ['nsenter', '--target', String(entrance.pid), ...namespaces, '--']
  const setpriv = ['setpriv', '--pdeathsig', 'KILL', '--']
  const setenv = ['env', '-i', '-C', options.cwd ?? '/', ...Object.entries(env).map(([key, value]) => `${key}=${value}`)]
  return { file: 'sh', args: [...join, ...nsenter, ...setpriv, ...setenv, command, ...args] }
}

/** The one child of an nsenter process: the program inside, by its outer pid. Undefined before the fork. */
export async function childOf(pid: number): Promise<number | undefined> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')
  const first = children.trim().split(' ')[0]
  return first === undefined || first === '' ? undefined : Number(first)
}

/** A process's pid inside its own pid namespace (proc_pid_status(5), NSpid). Undefined when it is gone. */
export async function insidePid(outerPid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${outerPid}/status`, 'utf8').catch(() => '')
  const pids = /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/)
  return pids === undefined ? undefined : Number(pids.at(-1))
}
