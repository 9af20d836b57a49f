/**
 * Telling a frozen guest from a slow one.
 *
 * Its agent answers Ping from memory, yet under emulation a busy guest may take seconds to get there. What cannot be
 * faked is what its VMM asks of the processors: a VM that is paused or deadlocked asks for next to nothing, one that is
 * busy, or starved by others, for plenty. So silence of an idle VM is death after `quietMs`; silence with work to do may
 * last `busyMs`. One whose VMM, or a helper of it, was stopped by a signal needs no such patience.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { findHeld, frozenReason, type NamedProcess } from './held.ts'
import { processActivity } from './processes.ts'

/** Share of one processor, had or waited for, below which a VMM is idle. */
const BUSY_SHARE_MIN = 0.02
/** Silence of a guest one of whose processes is held, in ms: long enough for a debugger that only looks. */
const HELD_MS = 2_000
const SAMPLE_MS = 500
/** Between attempts when a connection is refused, in ms: an agent that restarts its listener is not dead. */
const RETRY_MS = 200

/** What a guest is on its host. */
export interface Body {
  /** 0 when there is none */
  readonly vmmPid: number
  /** All that it needs to answer */
  readonly processes: readonly NamedProcess[]
}

export interface Patience {
  /** Silence allowed while the VMM is idle, in ms */
  readonly quietMs: number
  /** Silence allowed while it works, in ms */
  readonly busyMs: number
}

export type Proof = { readonly kind: 'alive' } | { readonly kind: 'slow' } | { readonly kind: 'dead'; readonly reason: string; readonly held: boolean }

/** `slow`: it works but has not answered within `busyMs`, and the caller decides. Never rejects. */
export async function proveAlive(
  ping: (signal: AbortSignal) => Promise<void>,
  { vmmPid, processes }: Body,
  { quietMs, busyMs }: Patience,
): Promise<Proof> {
  const over = new AbortController()
  const answered = pingUntil(ping, over.signal)
  try {
    let activity: number | undefined
    let idleMs = 0
    let heldMs = 0
    for (let waitedMs = SAMPLE_MS; ; waitedMs += SAMPLE_MS) {
      if (await Promise.race([answered, sleep(SAMPLE_MS, false, { signal: over.signal })])) return { kind: 'alive' }
      const held = findHeld(processes)
      heldMs = held === undefined ? 0 : heldMs + SAMPLE_MS
      if (held !== undefined && heldMs >= HELD_MS) return { kind: 'dead', reason: frozenReason(held), held: true }
      // Most guests have answered by now, so that the first sample costs nothing at all.
      activity ??= await processActivity(vmmPid)
      idleMs += SAMPLE_MS
      if (idleMs >= quietMs) {
        const now = await processActivity(vmmPid)
        if ((now - activity) / 1e6 < idleMs * BUSY_SHARE_MIN)
          return { kind: 'dead', reason: `the guest is frozen: no answer in ${waitedMs} ms, and its VM does nothing`, held: false }
        ;[activity, idleMs] = [now, 0]
      }
      if (waitedMs >= busyMs) return { kind: 'slow' }
    }
  } finally {
    over.abort()
    await answered
  }
}

/** True once a ping was answered; false when `signal` ends the attempts. */
async function pingUntil(ping: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<boolean> {
  for (;;) {
    try {
      await ping(signal)
      return true
    } catch {
      if (signal.aborted) return false
    }
    await sleep(RETRY_MS, undefined, { signal }).catch(() => {})
    if (signal.aborted) return false
  }
}
