/**
 * A node's name says who started it: `kuasar-node-<pid>-<start time>-<count>`. A node cannot outlive the process that
 * started it, so a name whose process is gone marks what may be collected, without locks or races.
 */

import { readFileSync } from 'node:fs'

export const namePrefix = 'kuasar-node-'

let count = 0

/** A name no other node has. */
export function newName(): string {
  const start = startTime(process.pid)
  if (start === undefined) throw new Error('/proc/self/stat is unreadable: is /proc mounted?')
  return `${namePrefix}${process.pid}-${start}-${count++}`
}

/** True unless the process that started the node `name` is gone. */
export function starterLives(name: string): boolean {
  const [pid, start] = name.slice(namePrefix.length).split('-')
  return pid !== undefined && start !== undefined && startTime(Number(pid)) === start
}

/** When a process started, in clock ticks since boot: with the pid, its identity (proc_pid_stat(5), field 22). */
export function startTime(pid: number): string | undefined {
  try {
    // The name of the program, field 2, is in parentheses and may hold anything; count from behind it.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}
