/**
 * A VM that was stopped by a signal (SIGSTOP) answers nothing, and containerd asks guests itself and without a deadline:
 * statistics of the whole node wait for it. So it is looked for, and ended, long before the heartbeat would find it.
 * A look is one read from /proc, and nobody is asked. Stopped by a debugger ("t") is left to the heartbeat.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '#shared/log.ts'
import { processStat } from './processes.ts'
import type { Sandboxes } from './sandboxes.ts'

/** Between two looks, in ms. Stopped at two in a row: a second at least may pass, two will not. */
const PULSE_MS = 700

/** Resolves when `signal` is aborted. */
export async function pulse(sandboxes: Sandboxes, log: Log, signal: AbortSignal): Promise<void> {
  let stopped: ReadonlySet<string> = new Set()
  while (!signal.aborted) {
    const now = new Set<string>()
    for (const sandbox of sandboxes.all) {
      if (sandbox.state.kind !== 'ready') continue
      // A look that fails (no descriptor is free) is made up for by the next.
      if ((await processStat(sandbox.state.running.running.vmmPid).catch(() => undefined))?.state !== 'T') continue
      now.add(sandbox.id)
      if (stopped.has(sandbox.id)) void sandbox.kill('the guest is frozen: its VM was stopped by a signal').catch((error: unknown) => log.error('a frozen guest is not ended', { sandbox: sandbox.id, error }))
    }
    stopped = now
    await sleep(PULSE_MS, undefined, { signal }).catch(() => {})
  }
}
