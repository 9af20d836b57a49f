/** CPU time: what a VM cost, however busy the machine was otherwise. */
import { readFileSync } from 'node:fs'

/** USER_HZ of every Linux on x86 and arm64: clock ticks per second in /proc. Source: time(7). */
const TICKS_PER_SECOND = 100

/** User and system time of all threads of a process so far, in ms, to 10 ms. Source: proc_pid_stat(5), utime and stime. */
export function cpuTimeMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name in parentheses may hold blanks; field 3 follows it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_SECOND
}
