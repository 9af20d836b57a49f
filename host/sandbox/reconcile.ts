/**
 * Three lists that should agree and do not always: what this sandboxer holds, what containerd knows, what the guests
 * run. containerd can lose a task without telling its guest, forget a pod without calling Stop, and remove a container
 * while the sandboxer is away. Each difference is acted on only after it was seen in two rounds some time apart, for a
 * single look may fall between the two halves of an ordinary create or delete.
 */
import { abortable } from '#shared/abortable.ts'
import { explain, RuntimeError } from '#shared/errors.ts'
import { ID_LENGTH_MAX } from '#shared/ids.ts'
import type { Log } from '#shared/log.ts'
import type { Containerd } from '../containerd/contract.ts'
import type { GuestTask } from '../link/agent.ts'
import type { Observer } from './observer.ts'
import type { Sandbox } from './sandbox.ts'

/** Guests asked at the same time. */
const PARALLEL = 16
/** For one question to one guest, in ms. */
const GUEST_TIMEOUT_MS = 5_000
const CONTAINERD_TIMEOUT_MS = 30_000
/** Tasks of one guest that a round looks at, twice what a sandbox may hold: the list is the guest's word. */
const TASKS_MAX = 1024
/** What a round does about one sandbox, and for how long, in ms; the next goes on. No guest may hold up the others. */
const ACTS_MAX = 64
const ROUND_MS = GUEST_TIMEOUT_MS

/** How lists may differ. */
export const findingKinds = ['forgotten-sandbox', 'stray-task', 'unreleased-container'] as const

export type Finding =
  /** containerd's sandbox store does not have it */
  | { readonly kind: 'forgotten-sandbox'; readonly sandboxId: string }
  /** The guest runs a task that containerd does not know */
  | { readonly kind: 'stray-task'; readonly sandboxId: string; readonly containerId: string; readonly pid: number }
  /** Prepared here, but neither a task of the guest nor a container of containerd */
  | { readonly kind: 'unreleased-container'; readonly sandboxId: string; readonly containerId: string }

/** One sandbox as it is seen in one round. */
export interface Seen {
  readonly id: string
  /** Only sandboxes of containerd's namespace can be looked up in its store. */
  readonly inNamespace: boolean
  /** Undefined when the guest was not asked or did not answer: then nothing is concluded from its silence */
  readonly guestTasks: readonly GuestTask[] | undefined
  /** Prepared containers, without those being prepared now */
  readonly containers: readonly string[]
}

/** What containerd knows. */
export interface Known {
  readonly sandboxes: ReadonlySet<string>
  readonly tasks: ReadonlySet<string>
  readonly containers: ReadonlySet<string>
}

/** Pure. */
export function compare(seen: readonly Seen[], known: Known): Finding[] {
  return seen.flatMap(({ id, inNamespace, guestTasks, containers }): Finding[] => {
    if (!inNamespace) return []
    if (!known.sandboxes.has(id)) return [{ kind: 'forgotten-sandbox', sandboxId: id }]
    if (guestTasks === undefined) return []
    const running = new Set(guestTasks.map(({ containerId }) => containerId))
    return [
      ...guestTasks
        .filter(({ containerId }) => !known.tasks.has(containerId))
        .map(({ containerId, pid }) => ({ kind: 'stray-task', sandboxId: id, containerId, pid }) as const),
      ...containers
        .filter((containerId) => !running.has(containerId) && !known.tasks.has(containerId) && !known.containers.has(containerId))
        .map((containerId) => ({ kind: 'unreleased-container', sandboxId: id, containerId }) as const),
    ]
  })
}

/** Remembers findings between rounds. */
export class Suspicions {
  readonly #settleMs: number
  #since = new Map<string, number>()

  /** @param settleMs how long a difference must have lasted: longer than any create's way from record to task */
  constructor(settleMs: number) {
    this.#settleMs = settleMs
  }

  /** Those that were there in the round before and have lasted. */
  confirm(findings: readonly Finding[], nowMs: number): readonly Finding[] {
    const before = this.#since
    this.#since = new Map(findings.map((finding) => [JSON.stringify(finding), before.get(JSON.stringify(finding)) ?? nowMs]))
    return findings.filter((finding) => {
      const sinceMs = before.get(JSON.stringify(finding))
      return sinceMs !== undefined && nowMs - sinceMs >= this.#settleMs
    })
  }

  get any(): boolean {
    return this.#since.size > 0
  }
}

/** Rejects with UNAVAILABLE while containerd is away: nothing is concluded from that either. */
export async function look(sandboxes: readonly Sandbox[], containerd: Containerd, namespace: string): Promise<readonly Finding[]> {
  // The guests first: what starts in between is then known to containerd and unknown to the list, never the reverse.
  const seen = await inParallel(sandboxes, (sandbox) => see(sandbox, namespace))
  const signal = AbortSignal.timeout(CONTAINERD_TIMEOUT_MS)
  const stored = new Set((await containerd.sandboxes(signal)).map(({ id }) => id))
  const tasks = new Set((await containerd.tasks(signal)).map(({ containerId }) => containerId))
  const containers = new Set<string>()
  for (const { id, guestTasks, containers: prepared } of seen)
    if (guestTasks !== undefined && prepared.some((containerId) => !tasks.has(containerId)))
      for (const container of await containerd.containersOf(id, signal)) containers.add(container.id)
  return compare(seen, { sandboxes: stored, tasks, containers })
}

async function see(sandbox: Sandbox, namespace: string): Promise<Seen> {
  const inNamespace = sandbox.record.namespace === namespace
  if (sandbox.state.kind !== 'ready') return { id: sandbox.id, inNamespace, guestTasks: undefined, containers: [] }
  const { agent, containers } = sandbox.state.running
  const prepared = containers.ids.filter((id) => !containers.isPreparing(id))
  const listed = await agent.tasks(AbortSignal.timeout(GUEST_TIMEOUT_MS)).catch(() => undefined)
  const guestTasks = listed?.slice(0, TASKS_MAX).filter(({ containerId }) => containerId.length <= ID_LENGTH_MAX)
  return { id: sandbox.id, inNamespace, guestTasks, containers: prepared }
}

type Acted = Pick<Sandbox, 'state' | 'shutdown'>

/** The sandboxes beside each other; what fails, or takes too long, is found again by the next round. Never rejects, nor lasts longer than a round. */
export async function actOnAll(findings: readonly Finding[], find: (id: string) => Acted | undefined, log: Log, observer: Pick<Observer, 'reconciled'>, roundMs = ROUND_MS): Promise<void> {
  await inParallel([...Map.groupBy(findings, ({ sandboxId }) => sandboxId).values()], async (ofOne) => {
    const over = AbortSignal.timeout(roundMs)
    for (const finding of ofOne.slice(0, ACTS_MAX)) {
      const sandbox = find(finding.sandboxId)
      if (sandbox === undefined || over.aborted) return
      log.warn('reconciled', { ...finding })
      observer.reconciled(finding.kind)
      const acted = act(finding, sandbox).catch((error: unknown) => log.error('reconciliation failed', { ...finding, error: explain(error) }))
      await abortable(acted, over).catch(() => {})
    }
  })
}

/** Errors: whatever undoing it meets. */
async function act(finding: Finding, sandbox: Acted): Promise<void> {
  switch (finding.kind) {
    case 'forgotten-sandbox':
      return sandbox.shutdown()
    case 'stray-task':
      if (sandbox.state.kind !== 'ready') return undefined
      return sandbox.state.running.agent.purge(finding.containerId, AbortSignal.timeout(GUEST_TIMEOUT_MS))
    case 'unreleased-container':
      if (sandbox.state.kind !== 'ready') return undefined
      return sandbox.state.running.containers.release(finding.containerId)
    default:
      throw new RuntimeError('INTERNAL', 'unknown finding')
  }
}

/** Results in the order of the items. */
export async function inParallel<T, R>(items: readonly T[], task: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const worker = async () => {
    for (let index = next++; index < items.length; index = next++) {
      const item = items[index]
      if (item !== undefined) results[index] = await task(item)
    }
  }
  await Promise.all(Array.from({ length: Math.min(PARALLEL, items.length) }, worker))
  return results
}
