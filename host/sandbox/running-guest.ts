/** A guest that runs, with all that goes with it; how one that outlived its sandboxer is taken over, and how one ends. */
import { RuntimeError, explain } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { AgentLink } from '../link/agent.ts'
import type { RunningSandbox } from './backend.ts'
import type { BoundBackend } from './backends.ts'
import { Containers } from './containers.ts'
import { type NamedProcess, processesOf } from './held.ts'
import type { Ledger } from './ledger.ts'
import { proveAlive } from './liveness.ts'
import type { SandboxServices } from './services.ts'
import { GUEST_ROOTS_DIR, GUEST_SHARED_DIR } from './share.ts'
import { type Launched, launchPlan, paths } from './start.ts'
import type { Trace } from './trace.ts'

export interface Guest {
  readonly running: RunningSandbox
  /** The VMM and its helpers */
  readonly processes: readonly NamedProcess[]
  /** Listens for the guest's calls */
  readonly link: AsyncDisposable
  /** Carries connections to the pod's localhost into the guest */
  readonly forwards: Disposable
  readonly agent: AgentLink
  readonly containers: Containers
}

export interface Surroundings {
  readonly ledger: Ledger
  readonly backend: BoundBackend
  readonly services: SandboxServices
  readonly trace: Trace
  readonly log: Log
}

export async function attachGuest({ running, link, forwards }: Launched, { ledger, backend, services, trace }: Surroundings): Promise<Guest> {
  const { namespace, preparer, containerd } = services
  const { sharedDir } = paths(services.sandboxesDir, ledger.record)
  const guestSharedDir = backend.capabilities.sharing === 'none' ? sharedDir : GUEST_SHARED_DIR
  const guestRootsDir = backend.capabilities.sharing !== 'none' && running.servesRoots ? GUEST_ROOTS_DIR : guestSharedDir
  const { hugepagesMiB } = ledger.record.plan.guest
  const view = { id: ledger.sandboxId, podUid: ledger.record.pod.uid, namespace, sharedDir, guestSharedDir, guestRootsDir, hugepagesMiB, ownership: ledger }
  const containers = new Containers(view, ledger, preparer, containerd, trace)
  const agent = services.agent((port, signal) => running.dial(port, signal))
  return { running, processes: await processesOf(ledger.list()), link, forwards, agent, containers }
}

/** Errors: NOT_FOUND when it is dead, UNAVAILABLE when it is frozen or cannot be driven; it is ended then. */
export async function adoptRunning({ ledger, backend, services, log }: Surroundings): Promise<RunningSandbox> {
  const { adoptMs, busyMs } = services.limits
  const running = await backend.adopt(
    { sandboxId: ledger.sandboxId, plan: launchPlan(ledger.record, services), adoption: ledger.record.adoption, owned: ledger.list() },
    { ownership: ledger, log, mark: () => {}, signal: AbortSignal.timeout(busyMs) },
  )
  const agent = services.agent((port, signal) => running.dial(port, signal))
  const body = { vmmPid: running.vmmPid, processes: await processesOf(ledger.list()) }
  const proof = await proveAlive((signal) => agent.ping(signal), body, { quietMs: adoptMs, busyMs: adoptMs })
  agent.close()
  if (proof.kind !== 'dead') return running
  await running.kill()
  throw new RuntimeError('UNAVAILABLE', proof.reason)
}

/** The guest ends its containers in peace and powers off. When it does not, its VMM is the caller's to kill. */
export async function shutdownGuest({ agent, running }: Guest, { services, log }: Surroundings): Promise<void> {
  const { stopGraceMs, stopMs } = services.limits
  const deadline = AbortSignal.timeout(stopGraceMs + stopMs)
  const died = running.exited.then(() => true)
  const { promise: late, resolve } = Promise.withResolvers<boolean>()
  const onLate = () => resolve(false)
  deadline.addEventListener('abort', onLate)
  try {
    await Promise.race([agent.shutdown(stopGraceMs, deadline), died])
    await Promise.race([died, late])
  } catch (error) {
    log.warn('the guest did not shut down', { error: explain(error) })
  }
  deadline.removeEventListener('abort', onLate)
}
