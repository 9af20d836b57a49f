/**
 * The start of a sandbox on a warm VM. What the cold start does before the guest's Hello was done before; left is to make
 * the VM the pod's and to answer:
 *
 *   network  the pod's namespace is looked at: a VM that waits has one card
 *   claim    all that the VM owns becomes the sandbox's, in one durable write
 *   cgroup   its processes move to the pod's
 *   tap      its tap moves to the pod's namespace, and frames are redirected
 *   ready    its Hello is answered, and the guest applies the answer
 *
 * Nothing here fails a start. What goes wrong ends the VM, gives back what was acquired, and the sandbox starts cold.
 */
import { RuntimeError, explain } from '#shared/errors.ts'
import type { NetworkPlan } from '../network/plan.ts'
import { createPodCgroup, moveProcesses } from './cgroup.ts'
import type { Handshake } from './handshake.ts'
import { findHeld, frozenReason, processesOf } from './held.ts'
import { connectClaimed, planClaim } from './network.ts'
import type { SandboxServices } from './services.ts'
import { guestUp, type Launch, type Launched, openForwards } from './start.ts'
import { nowMs } from './trace.ts'
import type { WarmVm } from './warm-vm.ts'

/** From Hello's answer to Ready, in ms: many times what an emulated guest takes. A cold start may still follow. */
const READY_MS_MAX = 20_000

export interface Claim extends Launch {
  readonly services: SandboxServices
  readonly handshake: Handshake
}

/** Resolves when the guest is ready; with nothing when the sandbox is to start cold. Errors: INTERNAL when not all could be undone. */
export async function claim(context: Claim): Promise<Launched | undefined> {
  const { ledger, backend, services, trace, handshake } = context
  if (!services.warm.has(ledger.record)) return undefined
  const network = await trace.measure('network', () => planClaim(ledger, backend))
  const vm = network === 'cold' ? undefined : services.warm.take(ledger.record)
  if (vm === undefined || network === 'cold') return undefined
  try {
    const launched = await handOver(vm, network, context)
    services.warm.served(vm)
    return launched
  } catch (error) {
    services.log.warn('the start goes on without its warm VM', { sandbox: ledger.sandboxId, vm: vm.id, error: explain(error) })
    await services.warm.end(vm)
    await ledger.release((resource) => resource.kind === 'process')
    await ledger.release(() => true)
    ledger.note({ vm: undefined, cgroupProcs: [] })
    handshake.again()
    return undefined
  }
}

async function handOver(vm: WarmVm, network: NetworkPlan | undefined, context: Claim): Promise<Launched> {
  const { ledger, services, trace, signal } = context
  const { running, link } = vm.launched
  const { plan: { netnsPath: idleNetns }, cgroupProcs: idleCgroup } = vm.ledger.record
  const run = <T>(name: string, task: () => Promise<T>, attributes?: Readonly<Record<string, string>>): Promise<T> => {
    signal.throwIfAborted()
    return trace.measure(name, task, attributes)
  }
  const held = findHeld(await processesOf(vm.ledger.list()))
  if (held?.by === 'signal') throw new RuntimeError('UNAVAILABLE', frozenReason(held))
  const waitedMs = nowMs() - vm.sinceMs
  await run('claim', () => ledger.takeOver(vm.ledger, { vm: vm.id }), { vm: vm.id, bootMs: vm.bootMs.toFixed(0), waitedMs: waitedMs.toFixed(0) })
  await run('cgroup', async () => {
    const cgroupProcs = await createPodCgroup(ledger.record.plan.cgroupPath, services.cgroupRoots, ledger)
    await moveProcesses(idleCgroup, cgroupProcs)
    ledger.note({ cgroupProcs: [...cgroupProcs] })
  })
  if (network !== undefined && idleNetns !== undefined) await run('tap', () => connectClaimed(ledger, idleNetns, network))
  const forwards = await run('forwards', () => openForwards(running, context))
  try {
    vm.peer.handTo(context.peer)
    await guestUp(context, running.exited, READY_MS_MAX)
    return { running, link, forwards }
  } catch (error) {
    forwards[Symbol.dispose]()
    throw error
  }
}
