/**
 * Exits, as PID 1 reports them. The agent is not the parent of containers (crun is, and it leaves at once), so PID 1
 * reaps them and writes one record each to the pipe the agent inherits as fd 3:
 *
 *   0        4        8                  16                 24
 *   ┌────────┬────────┬──────────────────┬──────────────────┐
 *   │ pid    │ status │ CLOCK_REALTIME   │ CLOCK_BOOTTIME   │   little endian
 *   │ u32    │ u32    │ u64 ns           │ u64 ns           │   status as waitpid(2) gives it
 *   └────────┴────────┴──────────────────┴──────────────────┘
 *
 * A record can come before anyone knows its pid (a container that dies while crun still runs), so records nobody has
 * claimed are kept, up to a limit. They are dated, and so are claims: the exit of an earlier holder of a reused pid
 * never answers a claim.
 */
import type { Exits } from './container/ports.ts'
import type { Exit } from './container/state.ts'

export const EXIT_RECORD_BYTES = 24

/** Most orphans that end before anyone asks for them are none of ours: daemons' children, crun's helpers. */
export const UNCLAIMED_EXITS_MAX = 1024

export interface ExitRecord {
  readonly pid: number
  /** Raw, as waitpid(2) gives it. */
  readonly waitStatus: number
  readonly realtimeNanos: bigint
  readonly bootTimeNanos: bigint
}

/** A wait status as containerd counts: the exit code, or 128 + the signal. */
export function exitStatus(waitStatus: number): number {
  const signal = waitStatus & 0x7f
  return signal === 0 ? (waitStatus >> 8) & 0xff : 128 + signal
}

/** Cuts the pipe's bytes into records; what is left of a record waits for the rest. */
export class ExitParser {
  #rest: Buffer = Buffer.alloc(0)

  push(chunk: Buffer): ExitRecord[] {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const records: ExitRecord[] = []
    let at = 0
    for (; at + EXIT_RECORD_BYTES <= bytes.length; at += EXIT_RECORD_BYTES) {
      records.push({
        pid: bytes.readUInt32LE(at),
        waitStatus: bytes.readUInt32LE(at + 4),
        realtimeNanos: bytes.readBigUInt64LE(at + 8),
        bootTimeNanos: bytes.readBigUInt64LE(at + 16),
      })
    }
    this.#rest = Buffer.from(bytes.subarray(at))
    return records
  }
}

interface Claim {
  readonly sinceNanos: bigint
  readonly resolve: (exit: Exit) => void
}

export class Reaper implements Exits {
  readonly #claims = new Map<number, Claim>()
  readonly #unclaimed = new Map<number, ExitRecord>()
  #dropped = 0

  /** Records that were pushed out of the table of the unclaimed. */
  get dropped(): number {
    return this.#dropped
  }

  get unclaimed(): number {
    return this.#unclaimed.size
  }

  deliver(record: ExitRecord): void {
    const claim = this.#claims.get(record.pid)
    if (claim !== undefined && record.bootTimeNanos >= claim.sinceNanos) {
      this.#claims.delete(record.pid)
      claim.resolve(exitOf(record))
      return
    }
    this.#unclaimed.delete(record.pid)
    this.#unclaimed.set(record.pid, record)
    if (this.#unclaimed.size <= UNCLAIMED_EXITS_MAX) return
    for (const oldest of this.#unclaimed.keys()) {
      this.#unclaimed.delete(oldest)
      this.#dropped++
      return
    }
  }

  /**
   * The exit of the process that holds `pid` now. `sinceNanos`: a CLOCK_BOOTTIME before the process was made; exits
   * older than that belong to an earlier holder.
   */
  claim(pid: number, sinceNanos: bigint): Promise<Exit> {
    const early = this.#unclaimed.get(pid)
    this.#unclaimed.delete(pid)
    if (early !== undefined && early.bootTimeNanos >= sinceNanos) return Promise.resolve(exitOf(early))
    const { promise, resolve } = Promise.withResolvers<Exit>()
    this.#claims.set(pid, { sinceNanos, resolve })
    return promise
  }
}

function exitOf(record: ExitRecord): Exit {
  return { status: exitStatus(record.waitStatus), atNanos: record.realtimeNanos }
}
