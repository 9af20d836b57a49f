/**
 * The sandbox's part of its pod's network: connected at the start, looked at again at each beat. A look is one process of
 * some milliseconds; a monitor would be one for each pod that stays, to learn of what changes a few times in a pod's life
 * if ever.
 */
import { explain, hasCode } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { PodNetwork } from '#shared/network.ts'
import type { AgentLink } from '../link/agent.ts'
import { discoverNetwork } from '../network/discover.ts'
import { makeNetns } from '../network/netns.ts'
import { IDLE_MAC, IDLE_TAP, type NetworkPlan, planNetwork, queuesOf, withinCards } from '../network/plan.ts'
import { makeIdleTap, makeTaps, moveTap } from '../network/tap.ts'
import type { BoundBackend } from './backends.ts'
import type { Ledger } from './ledger.ts'
import type { Guest } from './running-guest.ts'

/** What the guest gets to change its network, in ms. */
const UPDATE_MS_MAX = 60_000

/** Named in one complaint: a namespace may have thousands of routes. */
const COMPLAINTS_MAX = 8

/** Taps for what CNI left in the pod's namespace, and what the guest will be told of it. */
export async function connectNetwork(ledger: Ledger, backend: BoundBackend): Promise<void> {
  const { netnsPath, vcpus } = ledger.record.plan
  if (netnsPath === undefined || !backend.capabilities.ownKernel) return
  const plan = planNetwork(await discoverNetwork(netnsPath), vcpus)
  ledger.note(noted(plan))
  if (plan.taps.length === 0) return
  await ledger.acquireAll(owned(netnsPath, plan), () => makeTaps(netnsPath, plan))
}

const noted = ({ guest, taps }: NetworkPlan) => ({ network: guest, nics: taps.map(({ name, mac, queues }) => ({ tap: name, mac, queues })) })

const owned = (netns: string, { taps }: NetworkPlan) => taps.map(({ name, uplink }) => ({ kind: 'link', netns, name, uplink }) as const)

/** A namespace of its own for a VM that has no pod yet, and in it a tap that leads nowhere. */
export async function connectNowhere(ledger: Ledger): Promise<void> {
  const { netnsPath, vcpus } = ledger.record.plan
  if (netnsPath === undefined) return
  await ledger.acquireAll([{ kind: 'file', path: netnsPath }, { kind: 'mount', target: netnsPath }], () => makeNetns(netnsPath))
  const queues = queuesOf(vcpus)
  ledger.note({ nics: [{ tap: IDLE_TAP, mac: IDLE_MAC, queues }] })
  await ledger.acquire({ kind: 'link', netns: netnsPath, name: IDLE_TAP }, () => makeIdleTap(netnsPath, { name: IDLE_TAP, queues }))
}

/** How a pod would be connected by a warm VM's one card; "cold" when it cannot be, or when a start shall say why. */
export async function planClaim(ledger: Ledger, backend: BoundBackend): Promise<NetworkPlan | undefined | 'cold'> {
  const { netnsPath, vcpus } = ledger.record.plan
  if (!backend.capabilities.ownKernel) return undefined
  if (netnsPath === undefined) return 'cold'
  const plan = await discoverNetwork(netnsPath).then((found) => planNetwork(found, vcpus), () => 'cold' as const)
  return plan !== 'cold' && plan.taps.length === 1 ? plan : 'cold'
}

/** `idleNetns`: the namespace the VM has waited in. */
export async function connectClaimed(ledger: Ledger, idleNetns: string, plan: NetworkPlan): Promise<void> {
  const { netnsPath } = ledger.record.plan
  if (netnsPath === undefined) return
  ledger.note(noted(plan))
  await ledger.acquireAll(owned(netnsPath, plan), () => moveTap({ netns: idleNetns, name: IDLE_TAP }, netnsPath, plan))
}

/** Tells a running guest what has changed since. */
export class NetworkWatch {
  readonly #ledger: Ledger
  readonly #log: Log
  #complaint = ''

  constructor(ledger: Ledger, log: Log) {
    this.#ledger = ledger
    this.#log = log
  }

  /** What cannot be handed on is said once, by name. Nothing is said once `current` is false: then all of it goes. */
  async look({ agent }: Guest, current: () => boolean): Promise<void> {
    const { network, nics, plan } = this.#ledger.record
    if (plan.netnsPath === undefined || network === undefined || nics === undefined) return
    try {
      const taps = this.#ledger.list().flatMap((owned) => (owned.kind === 'link' && owned.uplink !== undefined ? [{ name: owned.name, uplink: owned.uplink }] : []))
      const found = await discoverNetwork(plan.netnsPath, taps)
      const cards = nics.flatMap(({ tap, mac }) => taps.flatMap(({ name, uplink }) => (name === tap ? [{ name: uplink, mac }] : [])))
      const { network: wanted, without } = withinCards(found, cards)
      this.#complain(listed(without))
      if (JSON.stringify(wanted) === JSON.stringify(network)) return
      await this.#tell(agent, wanted)
    } catch (error) {
      if (current()) this.#complain(explain(error))
    }
  }

  /** A guest that cannot be reached is told at the next beat; one that fails at a part has done the rest. */
  async #tell(agent: AgentLink, network: PodNetwork): Promise<void> {
    await agent.updateNetwork(network, AbortSignal.timeout(UPDATE_MS_MAX)).catch((error: unknown) => {
      if (!hasCode(error, 'INTERNAL')) throw error
      this.#complain(explain(error))
    })
    await this.#ledger.amend({ network })
    this.#log.info('the guest has the changed network', { links: network.links.length, routes: network.routes.length })
  }

  #complain(complaint: string): void {
    if (complaint !== '' && complaint !== this.#complaint) this.#log.error('the guest does not get all of its pod\'s network', { complaint })
    this.#complaint = complaint
  }
}

const listed = (complaints: readonly string[]): string =>
  [...complaints.slice(0, COMPLAINTS_MAX), ...(complaints.length > COMPLAINTS_MAX ? [`and ${complaints.length - COMPLAINTS_MAX} more`] : [])].join('; ')
