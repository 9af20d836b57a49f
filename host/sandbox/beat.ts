/**
 * The sandboxer's slow pulse. At each beat every guest's clock is set to the host's, which is also the proof that the
 * guest lives, what has changed in its pod's network is handed on to it, and the three lists are reconciled. Beats come faster after containerd has come back and while something
 * looks wrong.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { abortable } from '#shared/abortable.ts'
import { explain } from '#shared/errors.ts'
import { Gate } from '#shared/gate.ts'
import type { Containerd } from '../containerd/contract.ts'
import { clockStep } from './clock.ts'
import { proveAlive } from './liveness.ts'
import { actOnAll, inParallel, look, Suspicions } from './reconcile.ts'
import type { Sandbox } from './sandbox.ts'
import type { Sandboxes } from './sandboxes.ts'
import type { SandboxServices } from './services.ts'

/** Silence of an idle guest that counts as death, in ms. */
const QUIET_MS = 10_000
/** First beat after a start or containerd's return, in ms: what is in flight finds its place first. */
const RETURN_MS = 1_000
/**
 * Between two rounds of heartbeat while containerd is away, in ms. One that starts dials every guest it knows and waits
 * for up to 100 s on each that is frozen, so what is frozen must be gone by then.
 */
const AWAY_MS = 2_000
/** What a guest gets to answer before the next is asked beside it, in ms. */
const TURN_MS = 500
/** Networks looked at together: each look is a process. */
const LOOKS_MAX = 16

/** Resolves when `signal` is aborted. `presence` yields whenever containerd has come or gone. */
export async function beat(
  sandboxes: Sandboxes,
  services: SandboxServices,
  presence: (signal: AbortSignal) => AsyncIterable<'up' | 'down'>,
  signal: AbortSignal,
): Promise<void> {
  const suspicions = new Suspicions(services.limits.settleMs)
  const hearts = new Hearts(services)
  let wake = new AbortController()
  let present = false
  const listening = (async () => {
    for await (const now of presence(signal)) {
      present = now === 'up'
      wake.abort()
    }
  })()
  while (!signal.aborted) {
    wake = new AbortController()
    hearts.listen(sandboxes.all)
    if (present) await reconcile(sandboxes, services.containerd, services, suspicions)
    const restMs = !present ? AWAY_MS : suspicions.any ? services.limits.settleMs / 2 : services.limits.beatMs
    const came = await rest(restMs, AbortSignal.any([signal, wake.signal]))
    if (came && present) await rest(RETURN_MS, signal)
  }
  await listening
}

/** True when it ended early. */
async function rest(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await sleep(ms, undefined, { signal })
    return false
  } catch {
    return true
  }
}

async function reconcile(sandboxes: Sandboxes, containerd: Containerd, { namespace, log, observer }: SandboxServices, suspicions: Suspicions): Promise<void> {
  try {
    const findings = suspicions.confirm(await look(sandboxes.all, containerd, namespace), performance.now())
    await actOnAll(findings, (id) => sandboxes.find(id), log, observer)
  } catch (error) {
    log.debug('containerd cannot be asked', { error: explain(error) })
  }
}

/** A guest that is busy may take long, and no other waits for it longer than its turn; one that is frozen is ended. */
class Hearts {
  readonly #services: SandboxServices
  readonly #awaited = new Set<string>()
  readonly #looks = new Gate(LOOKS_MAX)

  constructor(services: SandboxServices) {
    this.#services = services
  }

  /** Returns at once. A guest whose last beat is still awaited is not asked again. */
  listen(sandboxes: readonly Sandbox[]): void {
    const { observer } = this.#services
    for (const { id, record } of sandboxes) if (this.#awaited.has(id)) observer.heartbeat(record.sandboxer, 'late')
    const due = sandboxes.filter(({ id }) => !this.#awaited.has(id))
    for (const { id } of due) this.#awaited.add(id)
    void inParallel(due, async (sandbox) => {
      const heard = heart(sandbox, this.#services, this.#looks)
        .catch((error: unknown) => this.#services.log.error('heartbeat failed', { sandbox: sandbox.id, error }))
        .finally(() => this.#awaited.delete(sandbox.id))
      await abortable(heard, AbortSignal.timeout(TURN_MS)).catch(() => {})
    })
  }
}

async function heart(sandbox: Sandbox, { limits, log, observer }: SandboxServices, looks: Gate): Promise<void> {
  if (sandbox.state.kind !== 'ready') return
  const { agent, running, processes } = sandbox.state.running
  const proof = await proveAlive(
    async (signal) => {
      const step = clockStep(await agent.syncClock(0n, signal))
      if (step === 0n) return
      await agent.syncClock(step, signal)
      log.info('the guest clock was stepped', { sandbox: sandbox.id, stepMs: Number(step / 1_000_000n) })
    },
    { vmmPid: running.vmmPid, processes },
    { quietMs: QUIET_MS, busyMs: limits.busyMs },
  )
  observer.heartbeat(sandbox.record.sandboxer, proof.kind === 'alive' ? 'answered' : proof.kind)
  if (proof.kind === 'alive') return looks.run(() => sandbox.lookAtNetwork())
  const reason = proof.kind === 'dead' ? proof.reason : `the guest works but has not answered for ${limits.busyMs} ms`
  await sandbox.kill(reason, proof.kind === 'dead' && proof.held ? 'stopped' : 'heartbeat')
}
