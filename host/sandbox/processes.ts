/**
 * Processes of a sandbox as /proc shows them. None of them need be a child of this sandboxer: most outlive one. A
 * process is named by pid and start time together, so a reused pid is never taken for it.
 */
import { readFileSync } from 'node:fs'
import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { RuntimeError } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

/** Environment variable that every process of a sandbox carries: `<sandbox id>/<name>`. */
export const MARKER = 'KUASAR_PROCESS'

/** Between TERM and KILL, in ms. VMMs and their helpers keep nothing that needs longer. */
const TERM_GRACE_MS = 500
/** After KILL, in ms. Only a process stuck in the kernel takes longer. */
const KILL_WAIT_MS = 5_000
const POLL_MS = 5
const POLL_MS_MAX = 50

export interface ProcessStat {
  readonly pid: number
  /** Field 3 of /proc/PID/stat: R S D T t Z X … */
  readonly state: string
  /** Field 22, clock ticks since boot */
  readonly startTicks: string
}

/** Undefined when there is no such process. */
export async function processStat(pid: number): Promise<ProcessStat | undefined> {
  try {
    return parseStat(pid, await readFile(`/proc/${pid}/stat`, 'latin1'))
  } catch (error) {
    return gone(error)
  }
}

/**
 * The same without a turn of the event loop: for a process that could be reaped in one, and for many looks at once, each a
 * fifth of the other's work (20 µs). The kernel never waits for anybody before it answers.
 */
export function processStatNow(pid: number): ProcessStat | undefined {
  try {
    return parseStat(pid, readFileSync(`/proc/${pid}/stat`, 'latin1'))
  } catch (error) {
    return gone(error)
  }
}

function gone(error: unknown): undefined {
  if (!isErrno(error, 'ENOENT') && !isErrno(error, 'ESRCH')) throw error
}

/** Field 2 is the command in parentheses and may itself hold any of these characters; the last ")" ends it. */
function parseStat(pid: number, text: string): ProcessStat {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return { pid, state: fields[0] ?? '?', startTicks: fields[19] ?? '' }
}

/** What a process has forked and not yet reaped. */
export async function childrenOf(pid: number): Promise<ProcessStat[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'latin1').catch(() => '')
  const stats = await Promise.all(text.trim().split(' ').filter((word) => word !== '').map((word) => processStat(Number(word))))
  return stats.filter((stat) => stat !== undefined)
}

/**
 * What a process has done and has wanted to do, in ns: its threads' time on a processor and their time waiting for one.
 * The second keeps a process that is starved from looking idle. 0 when it is gone. Source: proc_pid_schedstat, fields 1
 * and 2 (Documentation/scheduler/sched-stats.rst).
 */
export async function processActivity(pid: number): Promise<number> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => [])
  const times = await Promise.all(
    threads.map(async (thread) => {
      const [running = 0, waiting = 0] = (await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').catch(() => '')).split(' ').map(Number)
      return running + waiting
    }),
  )
  return times.reduce((sum, time) => sum + time, 0)
}

/** True while that very process runs. A zombie no longer does: it only waits for its parent. */
export async function isAlive(pid: number, startTicks: string | undefined): Promise<boolean> {
  const stat = await processStat(pid)
  return stat !== undefined && stat.state !== 'Z' && stat.state !== 'X' && (startTicks === undefined || stat.startTicks === startTicks)
}

/** Running processes whose marker satisfies `match` (it gets what follows `KUASAR_PROCESS=`). */
export async function findMarked(match: (marker: string) => boolean): Promise<readonly ProcessStat[]> {
  const found: ProcessStat[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const marker = await markerOf(Number(name))
    if (marker === undefined || !match(marker)) continue
    const stat = await processStat(Number(name))
    if (stat !== undefined && stat.state !== 'Z') found.push(stat)
  }
  return found
}

/** Gone processes, zombies and kernel threads have no environment to read. */
async function markerOf(pid: number): Promise<string | undefined> {
  try {
    const environment = await readFile(`/proc/${pid}/environ`, 'latin1')
    const at = environment.startsWith(`${MARKER}=`) ? 0 : environment.indexOf(`\0${MARKER}=`) + 1
    if (at === 0 && !environment.startsWith(`${MARKER}=`)) return undefined
    const end = environment.indexOf('\0', at)
    return environment.slice(at + MARKER.length + 1, end === -1 ? undefined : end)
  } catch {
    return undefined
  }
}

/**
 * The sandboxes of which processes run that write their output to a file right below `<sandboxesDir>/<sandbox id>`, be that
 * removed by now. The marker alone is not enough: another sandboxer's processes carry theirs. Neither is the path, which
 * another one may have in a mount namespace of its own: the file system must be the same. `sandboxesDir`: without symbolic links.
 */
export async function markedBelow(sandboxesDir: string): Promise<ReadonlyMap<string, readonly ProcessStat[]>> {
  const { dev } = await stat(sandboxesDir)
  const found = new Map<string, ProcessStat[]>()
  for (const process of await findMarked(() => true)) {
    const id = (await markerOf(process.pid))?.split('/')[0] ?? ''
    const output = `/proc/${process.pid}/fd/1`
    const [path, file] = await Promise.all([readlink(output), stat(output)]).catch(() => [])
    if (id === '' || path === undefined || dirname(path) !== `${sandboxesDir}/${id}` || file?.dev !== dev) continue
    found.set(id, [...(found.get(id) ?? []), process])
  }
  return found
}

/** TERM, grace, KILL, and gone when it resolves. Errors: INTERNAL when the kernel does not let go of it. */
export async function endProcess(pid: number, startTicks: string | undefined): Promise<void> {
  for (const [signal, waitMs] of [
    ['SIGTERM', TERM_GRACE_MS],
    ['SIGKILL', KILL_WAIT_MS],
  ] as const) {
    if (!(await isAlive(pid, startTicks))) return
    try {
      process.kill(pid, signal)
    } catch (error) {
      if (isErrno(error, 'ESRCH')) return
      throw error
    }
    if (await goneWithin(pid, startTicks, waitMs)) return
  }
  throw new RuntimeError('INTERNAL', `process ${pid} is still there ${KILL_WAIT_MS} ms after SIGKILL`)
}

async function goneWithin(pid: number, startTicks: string | undefined, waitMs: number): Promise<boolean> {
  for (let waitedMs = 0, pollMs = POLL_MS; ; pollMs = Math.min(pollMs * 2, POLL_MS_MAX)) {
    if (!(await isAlive(pid, startTicks))) return true
    if (waitedMs >= waitMs) return false
    await sleep(pollMs)
    waitedMs += pollMs
  }
}
