/** The containers of one sandbox, as far as the host knows them: those its guest had prepared and has not released. */
import { abortable } from '#shared/abortable.ts'
import { RuntimeError } from '#shared/errors.ts'
import type { ContainerPreparer, PreparedContainer, SandboxView } from '../container/contract.ts'
import type { Containerd, EventEnvelope } from '../containerd/contract.ts'
import type { Claimed } from './guest.ts'
import type { Ledger } from './ledger.ts'
import { nowMs, type Trace } from './trace.ts'

/** Prepared at the same time for one sandbox. */
const PREPARES_MAX = 64
/** Containers of one sandbox. Kubernetes allows 110 pods on a node; one pod has a handful. */
const CONTAINERS_MAX = 512
/** Before a container is prepared once more, in ms: an agent asks again only when the answer was lost with its link. */
const AGAIN_MS = 250
/** Containers that are known to have been asked for. */
const ASKED_MAX = 1024
/** Released containers whose last events may still come. */
const RELEASED_MAX = 256
/** How long a prepare may take to notice that its sandbox ends, in ms. */
const DRAIN_MS = 15_000
/** Events waiting for containerd. The guest keeps what is refused and sends it again. */
export const EVENTS_MAX = 256

export class Containers {
  readonly #view: SandboxView
  readonly #ledger: Ledger
  readonly #preparer: ContainerPreparer
  readonly #containerd: Containerd
  readonly #trace: Trace
  readonly #ended = new AbortController()
  readonly #preparing = new Map<string, { readonly prepared: Promise<PreparedContainer>; readonly asker: AbortSignal }>()
  /** When the guest got the answer to a Prepare after which it has told of no container; of those that are not released. */
  readonly #preparedAtMs = new Map<string, number>()
  readonly #asked = new Set<string>()
  readonly #released = new Set<string>()
  #publishing: Promise<unknown> = Promise.resolve()
  #waiting = 0

  constructor(view: SandboxView, ledger: Ledger, preparer: ContainerPreparer, containerd: Containerd, trace: Trace) {
    this.#view = view
    this.#ledger = ledger
    this.#preparer = preparer
    this.#containerd = containerd
    this.#trace = trace
  }

  /** Those whose prepare a crash cut off own things, yet are not in the record's list. */
  get ids(): readonly string[] {
    const owned = this.#ledger.list().flatMap((resource) => ('containerId' in resource && resource.containerId !== undefined ? [resource.containerId] : []))
    return [...new Set([...this.#ledger.record.containers, ...owned])]
  }

  isPreparing(id: string): boolean {
    return this.#preparing.has(id)
  }

  /** Asked twice at once, it is done once, unless it failed because the first asker went away: a guest asks again over its next link. */
  prepare(id: string, signal: AbortSignal): Promise<PreparedContainer> {
    const running = this.#preparing.get(id)
    if (running !== undefined) {
      return running.prepared.catch((error: unknown) => {
        if (!running.asker.aborted || signal.aborted) throw error
        return this.prepare(id, signal)
      })
    }
    if (this.#preparing.size >= PREPARES_MAX || this.ids.length >= CONTAINERS_MAX)
      return Promise.reject(
        new RuntimeError('RESOURCE_EXHAUSTED', `sandbox ${this.#view.id} has ${this.ids.length} containers and prepares ${this.#preparing.size} more; the limits are ${CONTAINERS_MAX} and ${PREPARES_MAX}`),
      )
    const prepared = this.#prepare(id, AbortSignal.any([signal, this.#ended.signal])).finally(() => this.#preparing.delete(id))
    this.#preparing.set(id, { prepared, asker: signal })
    return prepared
  }

  async #prepare(id: string, signal: AbortSignal): Promise<PreparedContainer> {
    signal.throwIfAborted()
    if (this.#asked.has(id)) await abortable(new Promise<void>((wake) => setTimeout(wake, AGAIN_MS)), signal)
    addLatest(this.#asked, id, ASKED_MAX)
    const prepared = await this.#trace.measure('prepare', () => this.#preparer.prepare(this.#view, id, signal), { container: id })
    this.#released.delete(id)
    const { containers } = this.#ledger.record
    if (!containers.includes(id)) await this.#ledger.amend({ containers: [...containers, id] })
    this.#preparedAtMs.set(id, nowMs())
    return prepared
  }

  /** A guest is heard once for each Prepare that this sandboxer has answered. */
  created(id: string, { startMs, endMs }: Claimed): void {
    const preparedAtMs = this.#preparedAtMs.get(id)
    if (preparedAtMs === undefined) return
    this.#preparedAtMs.delete(id)
    const [start, end] = [Math.max(preparedAtMs, startMs), Math.max(preparedAtMs, endMs)]
    this.#trace.add({ name: 'guest.crun-create', startMs: start, endMs: end, source: 'guest', attributes: { container: id } })
  }

  async release(id: string): Promise<void> {
    await this.#preparing.get(id)?.prepared.catch(() => {})
    this.#preparedAtMs.delete(id)
    const known = this.ids.includes(id)
    await this.#preparer.release(this.#view, id)
    if (!known) return
    addLatest(this.#released, id, RELEASED_MAX)
    await this.#ledger.amend({ containers: this.#ledger.record.containers.filter((other) => other !== id) })
  }

  /**
   * Hands an event on, in the guest's order, once for each sequence number as far as this sandboxer remembers: after a
   * restart the latest may come a second time. Errors: NOT_FOUND when the container is not this sandbox's.
   */
  publish(sequence: bigint, containerId: string, event: EventEnvelope, signal: AbortSignal): Promise<void> {
    if (this.#waiting >= EVENTS_MAX)
      return Promise.reject(new RuntimeError('RESOURCE_EXHAUSTED', `sandbox ${this.#view.id}: ${this.#waiting} events wait for containerd already`))
    this.#waiting++
    const turn = this.#publishing.then(() => this.#publish(sequence, containerId, event, signal)).finally(() => this.#waiting--)
    this.#publishing = turn.catch(() => {})
    return turn
  }

  async #publish(sequence: bigint, containerId: string, event: EventEnvelope, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (sequence <= BigInt(this.#ledger.record.published)) return
    if (!(await this.#owns(containerId, signal)))
      throw new RuntimeError('NOT_FOUND', `container ${containerId} of event ${event.topic} is not in sandbox ${this.#view.id}`)
    await this.#containerd.publish(event, signal)
    this.#ledger.note({ published: String(sequence) })
  }

  async #owns(id: string, signal: AbortSignal): Promise<boolean> {
    if (this.ids.includes(id) || this.#released.has(id)) return true
    try {
      return (await this.#containerd.container(id, signal)).sandboxId === this.#view.id
    } catch (error) {
      if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return false
      throw error
    }
  }

  /** No container is prepared any more when it resolves, or ever again. */
  async close(): Promise<void> {
    this.#ended.abort(new RuntimeError('CANCELLED', `sandbox ${this.#view.id} is being stopped`))
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, DRAIN_MS)
    await Promise.race([Promise.allSettled([...this.#preparing.values()].map(({ prepared }) => prepared)), late])
    clearTimeout(timer)
  }
}

/** A set keeps the order in which its members came: those that came first go. */
function addLatest(set: Set<string>, id: string, max: number): void {
  set.delete(id)
  set.add(id)
  for (const oldest of set) {
    if (set.size <= max) return
    set.delete(oldest)
  }
}
