/**
 * Signals to processes that are not our children. A pid alone may have been given to another process meanwhile, so it
 * is held together with a time at which it was the one that is meant: whoever has the pid now and began later is another
 * (proc_pid_stat(5), field 22). Nothing is read before there is a signal to send, which most processes never get.
 */
import { readFileSync } from 'node:fs'
import { RuntimeError } from '#shared/errors.ts'

export interface ProcessIdentity {
  readonly pid: number
  /** CLOCK_BOOTTIME when the process had been made, and not been reaped for certain. */
  readonly seenNanos: bigint
}

/** USER_HZ of every Linux on x86 and arm64 is 100. Source: time(7). */
const NANOS_PER_TICK = 10_000_000n

/** Largest signal number of Linux. */
export const SIGNAL_MAX = 64

/** Errors: NOT_FOUND when the process is gone, INVALID_ARGUMENT for no signal. */
export function signalProcess(process_: ProcessIdentity, signal: number): void {
  const { pid, seenNanos } = process_
  const ticks = startTicks(pid)
  if (ticks === undefined || ticks > seenNanos / NANOS_PER_TICK) {
    throw new RuntimeError('NOT_FOUND', `process ${pid} has finished`)
  }
  try {
    process.kill(pid, signal)
  } catch (cause) {
    const gone = cause instanceof Error && 'code' in cause && cause.code === 'ESRCH'
    throw new RuntimeError(gone ? 'NOT_FOUND' : 'INVALID_ARGUMENT', `signal ${signal} to process ${pid}`, { cause })
  }
}

/** Since boot; undefined when there is no such process. */
function startTicks(pid: number): bigint | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The command in parentheses may hold anything; field 22 is the 20th after it.
    return BigInt(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '')
  } catch {
    return undefined
  }
}
