/**
 * Containers that were deleted lately. containerd writes an exit code down only after its Delete was answered. One that is
 * killed, or updated, before that finds the bundle when it is back, asks for the container by Connect, and takes a "not
 * found" for an exit with 255 that nobody can explain (loadShim in core/runtime/v2, loadContainer in internal/cri/server).
 * So who asks by Connect has it back as it was before its Delete: stopped, with its exit and without a word left to say.
 * Nobody else sees it: a new container of the same id, and its streams, find the name free.
 */
import type { Container } from './container.ts'
import type { ContainersContext } from './context.ts'
import { ProcessIo } from './io.ts'
import type { Ended } from './process.ts'

/** What containerd may have under way at once when it dies; the oldest go first. */
export const DEPARTED_MAX = 64

interface Entry {
  readonly container: Container
  readonly ended: Ended
  /** Once it was asked for */
  streams?: Disposable
}

export class Departed {
  readonly #context: Pick<ContainersContext, 'io' | 'initPolicy'>
  readonly #entries = new Map<string, Entry>()

  constructor(context: Pick<ContainersContext, 'io' | 'initPolicy'>) {
    this.#context = context
  }

  add(container: Container, ended: Ended): void {
    container.execs.clear()
    this.remove(container.id)
    this.#entries.set(container.id, { container, ended })
    for (const id of this.#entries.keys()) {
      if (this.#entries.size <= DEPARTED_MAX) return
      this.remove(id)
    }
  }

  /** From now on it is found, and its streams, open or to come, are at their ends. */
  recall(id: string): Container | undefined {
    const entry = this.#entries.get(id)
    if (entry === undefined) return undefined
    const { io, initPolicy } = this.#context
    entry.streams ??= ProcessIo.ended(entry.container.init.stdio, io, initPolicy)
    return entry.container
  }

  /** One that was recalled. */
  find(id: string): Container | undefined {
    return this.#recalled(id)?.container
  }

  /** The end of one that was recalled, which is then gone for good. */
  take(id: string): Ended | undefined {
    const ended = this.#recalled(id)?.ended
    if (ended !== undefined) this.remove(id)
    return ended
  }

  remove(id: string): void {
    this.#entries.get(id)?.streams?.[Symbol.dispose]()
    this.#entries.delete(id)
  }

  #recalled(id: string): Entry | undefined {
    const entry = this.#entries.get(id)
    return entry?.streams === undefined ? undefined : entry
  }
}
