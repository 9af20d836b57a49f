/**
 * Every container of the pod. Each process has its own turns, and no lock spans two containers: a create, exec or
 * delete that takes long holds up nobody else.
 */
import { hasCode, RuntimeError } from '#shared/errors.ts'
import { type Container, processOf } from './container.ts'
import { type ContainersContext, publish } from './context.ts'
import { createContainer, type CreateContainer } from './create.ts'
import { Departed } from './departed.ts'
import { type AddExec, addExec, deleteExec, startExec } from './execs.ts'
import { ProcessIo } from './io.ts'
import { parseResources } from './oci.ts'
import type { Ended } from './process.ts'
import { finalResources } from './spec.ts'
import { hasExited } from './state.ts'
import type { Stdio } from './stdio.ts'

/** More containers than kubelet allows pods on a node. */
export const CONTAINERS_MAX = 512

/** How long a killed process may take to be gone: memory in the hundreds of gigabytes, or a stuck file system. */
const KILL_MS_MAX = 30_000

export class Containers {
  readonly #context: ContainersContext
  readonly #containers = new Map<string, Container>()
  /** Creates under way, and the means to end each early. */
  readonly #creating = new Map<string, { readonly abort: AbortController; readonly done: Promise<void> }>()

  readonly #departed: Departed

  constructor(context: ContainersContext) {
    this.#context = context
    this.#departed = new Departed(context)
  }

  /** All that are not deleted. */
  all(): readonly Container[] {
    return [...this.#containers.values()]
  }

  /** NOT_FOUND for one that does not exist (yet). */
  get(id: string): Container {
    const container = this.#containers.get(id) ?? this.#departed.find(id)
    if (container === undefined) throw new RuntimeError('NOT_FOUND', `container ${id}: not found in this sandbox`)
    return container
  }

  /** The same, for a containerd that may have come back: one that was deleted lately is there again, until it is deleted once more. */
  recall(id: string): Container {
    return this.#containers.get(id) ?? this.#departed.recall(id) ?? this.get(id)
  }

  /** Prepares, mounts and creates. On any error, and when `signal` aborts meanwhile, all of it is undone. */
  async create(request: CreateContainer, signal: AbortSignal): Promise<Container> {
    const { id } = request
    if (this.#containers.has(id) || this.#creating.has(id)) throw new RuntimeError('ALREADY_EXISTS', `container ${id} exists already`)
    if (this.#containers.size + this.#creating.size >= CONTAINERS_MAX) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `the sandbox holds ${CONTAINERS_MAX} containers already`)
    }
    this.#departed.remove(id)
    const abort = new AbortController()
    const { promise: done, resolve } = Promise.withResolvers<void>()
    this.#creating.set(id, { abort, done })
    try {
      const container = await createContainer(this.#context, request, (pid) => this.#isInit(pid), AbortSignal.any([signal, abort.signal]))
      this.#containers.set(id, container)
      return container
    } finally {
      this.#creating.delete(id)
      resolve()
    }
  }

  /**
   * The streams that containerd has opened for a Create or Exec that comes now, and does not close when that fails: what is
   * returned lets them go. Not those of a containerd that was started meanwhile, which will ask again.
   */
  waiting(stdio: Stdio): () => void {
    const { io, execPolicy } = this.#context
    return ProcessIo.waiting(stdio, io, execPolicy)
  }

  async start(container: Container): Promise<number> {
    const { id, init, dir } = container
    return await init.turns.run(async () => {
      init.assert('start')
      const { pid } = init.state
      await this.#context.runtime.start(id, dir)
      init.running()
      publish(this.#context, { kind: 'start', containerId: id, pid })
      return pid
    })
  }

  async addExec(container: Container, request: AddExec): Promise<void> {
    await addExec(this.#context, container, request)
  }

  async startExec(container: Container, execId: string): Promise<number> {
    return await startExec(this.#context, container, execId)
  }

  async deleteExec(container: Container, execId: string): Promise<Ended> {
    return await deleteExec(container, execId)
  }

  /** `all`: every process of the container; SIGKILL to them all is one atomic act of the kernel. */
  async kill(container: Container, execId: string, signal: number, all: boolean): Promise<void> {
    const process = processOf(container, execId)
    // Not in its turn: behind a Delete, the answer would come when containerd has hung up, and a stop of the pod would fail.
    process.assert('kill')
    await process.turns.run(async () => {
      process.signal(signal)
      if (!all || execId !== '') return
      if (signal === SIGKILL) container.cgroup.kill()
      else for (const pid of container.cgroup.pids()) if (pid !== container.init.state.pid) signalIgnored(pid, signal)
    })
  }

  async pause(container: Container): Promise<void> {
    const { id, dir, init } = container
    await init.turns.run(async () => {
      init.assert('pause')
      await this.#context.runtime.pause(id, dir)
      init.frozen(true)
      publish(this.#context, { kind: 'paused', containerId: id })
    })
  }

  async resume(container: Container): Promise<void> {
    const { id, dir, init } = container
    await init.turns.run(async () => {
      init.assert('resume')
      await this.#context.runtime.resume(id, dir)
      init.frozen(false)
      publish(this.#context, { kind: 'resumed', containerId: id })
    })
  }

  /** `resources`: OCI LinuxResources, JSON. */
  async update(container: Container, resources: Buffer): Promise<void> {
    const { id, dir, init } = container
    const wanted = finalResources(parseResources(resources, `update of container ${id}`), this.#context.spec.hugepageSizes)
    await init.turns.run(async () => {
      init.assert('update')
      await this.#context.runtime.update(id, dir, JSON.stringify(wanted))
    })
  }

  /**
   * Forgets a container: its files, mounts and cgroup are gone when this resolves. One that was never started is ended
   * first; a running one is refused with FAILED_PRECONDITION. A create under way is ended, and NOT_FOUND is the answer.
   */
  async delete(id: string): Promise<Ended> {
    const creating = this.#creating.get(id)
    if (creating !== undefined) {
      creating.abort.abort(new RuntimeError('CANCELLED', `container ${id} was deleted while it was created`))
      await creating.done
    }
    const before = this.#departed.take(id)
    if (before !== undefined) return before
    const container = this.get(id)
    const { init } = container
    await init.turns.run(async () => init.assert('delete'))
    if (init.state.kind === 'created') await this.#end(container)
    return await this.#remove(container)
  }

  /** Kills and deletes whatever there is under this id. Idempotent. */
  async purge(id: string): Promise<void> {
    const creating = this.#creating.get(id)
    creating?.abort.abort(new RuntimeError('CANCELLED', `container ${id} was purged while it was created`))
    await creating?.done
    const container = this.#containers.get(id)
    if (container === undefined) return
    if (!hasExited(container.init.state)) await this.#end(container)
    await this.#remove(container).catch((error: unknown) => {
      // A Delete was faster.
      if (!hasCode(error, 'NOT_FOUND')) throw error
    })
  }

  #isInit(pid: number): boolean {
    return this.all().some(({ init }) => init.state.pid === pid && !hasExited(init.state))
  }

  /** SIGKILL to everything, and the end of the init awaited. */
  async #end({ id, init, cgroup }: Container): Promise<void> {
    cgroup.kill()
    const { promise, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new RuntimeError('DEADLINE_EXCEEDED', `container ${id} does not end`)), KILL_MS_MAX)
    try {
      await Promise.race([init.exited, promise])
    } finally {
      clearTimeout(timer)
    }
  }

  async #remove(container: Container): Promise<Ended> {
    const { id, init, execs } = container
    return await init.turns.run(async () => {
      if (init.state.kind === 'deleted') throw new RuntimeError('NOT_FOUND', `container ${id}: not found in this sandbox`)
      const removed = await init.remove()
      await Promise.all([...execs.values()].map(({ process }) => process.io.discard()))
      await container.undo.disposeAsync()
      if (this.#containers.get(id) === container) this.#containers.delete(id)
      this.#departed.add(container, removed)
      publish(this.#context, { kind: 'delete', containerId: id, execId: '', ...removed })
      return removed
    })
  }
}

const SIGKILL = 9

function signalIgnored(pid: number, signal: number): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It ended meanwhile.
  }
}
