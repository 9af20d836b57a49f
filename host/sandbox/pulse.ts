/**
 * A VM one of whose processes was stopped by a signal (SIGSTOP) answers nothing, or soon will: QEMU runs it, and the helpers
 * are its vsock and its file systems. containerd asks guests itself and without a deadline: statistics of the whole node wait
 * for it. So it is looked for, and ended, long before the heartbeat would find it. A look is one read from /proc for each
 * process, and nobody is asked. What a debugger holds is left to the heartbeat.
 */
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '#shared/log.ts'
import type { Culprit } from './backend.ts'
import { findHeld, frozenReason } from './held.ts'
import type { Guest } from './running-guest.ts'
import type { SandboxState } from './state.ts'

/** Between two looks, in ms. Stopped at two in a row: a second at least may pass, two will not. */
const PULSE_MS = 700

/** What the pulse sees of a sandbox. */
export interface Pulsing {
  readonly id: string
  readonly state: SandboxState<Pick<Guest, 'processes'>>
  kill(reason: string, of: Culprit): Promise<void>
}

/** Resolves when `signal` is aborted. */
export async function pulse(sandboxes: { readonly all: readonly Pulsing[] }, log: Log, signal: AbortSignal): Promise<void> {
  let stopped: ReadonlySet<string> = new Set()
  while (!signal.aborted) {
    const now = new Set<string>()
    for (const sandbox of sandboxes.all) {
      // However many there are, nobody waits for more than one of them.
      await turn()
      const reason = stoppedBySignal(sandbox)
      if (reason === undefined) continue
      now.add(sandbox.id)
      if (stopped.has(sandbox.id)) void sandbox.kill(reason, 'stopped').catch((error: unknown) => log.error('a frozen guest is not ended', { sandbox: sandbox.id, error }))
    }
    stopped = now
    await sleep(PULSE_MS, undefined, { signal }).catch(() => {})
  }
}

/** Why it is to be ended. */
function stoppedBySignal({ state }: Pulsing): string | undefined {
  if (state.kind !== 'ready') return undefined
  const held = findHeld(state.running.processes)
  return held?.by === 'signal' ? frozenReason(held) : undefined
}
