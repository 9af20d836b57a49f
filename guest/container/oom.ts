/** Tells containerd when the kernel's OOM killer struck in a container: while it lives, and before its Wait is answered. */
import type { Cgroup } from '../runtime/cgroup.ts'
import type { TaskEvents } from './ports.ts'

/** How long Wait may be held back for containerd to hear of an OOM kill first: without that it reports a plain exit. */
export const OOM_PUBLISH_MS_MAX = 2000

export class OomWatch {
  readonly #containerId: string
  readonly #cgroup: Cgroup
  readonly #events: TaskEvents
  readonly #watch: Disposable
  #reported = 0
  #published: Promise<void> = Promise.resolve()

  constructor(containerId: string, cgroup: Cgroup, events: TaskEvents) {
    this.#containerId = containerId
    this.#cgroup = cgroup
    this.#events = events
    this.#watch = cgroup.watchMemoryEvents(() => this.#check())
  }

  /** Resolves once containerd knows of every kill so far, or OOM_PUBLISH_MS_MAX later. Never rejects. */
  async reported(): Promise<void> {
    this.#check()
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, OOM_PUBLISH_MS_MAX)
    await Promise.race([this.#published, promise])
    clearTimeout(timer)
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]()
  }

  #check(): void {
    const kills = this.#cgroup.oomKills()
    if (kills <= this.#reported) return
    this.#reported = kills
    this.#published = this.#events.publish({ kind: 'oom', containerId: this.#containerId })
  }
}
