/**
 * Containers that do nothing: created, started, waited for, killed and deleted as containerd expects, with output
 * streams that stay silent until they end. They make whole CRI pods possible where nothing can be run.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { ServiceTypesOf, Rpc } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'

/** Streams opened and never closed by their task. */
const STREAMS_MAX = 1024

interface Exit {
  readonly status: number
  readonly atMs: number
}

class Task {
  readonly pid: number
  readonly request: { readonly id: string; readonly bundle: string; readonly stdin: string; readonly stdout: string; readonly stderr: string; readonly terminal: boolean }
  readonly exited: Promise<Exit>
  readonly #resolve: (exit: Exit) => void
  started = false
  exit: Exit | undefined

  constructor(pid: number, request: Task['request']) {
    this.pid = pid
    this.request = request
    const { promise, resolve } = Promise.withResolvers<Exit>()
    this.exited = promise
    this.#resolve = resolve
  }

  end(status: number): void {
    this.exit ??= { status, atMs: Date.now() }
    this.#resolve(this.exit)
  }

  get status(): 'CREATED' | 'RUNNING' | 'STOPPED' {
    return this.exit !== undefined ? 'STOPPED' : this.started ? 'RUNNING' : 'CREATED'
  }
}

/** What the tasks ask of the host. */
export interface TaskHost {
  prepare(id: string, signal: AbortSignal): Promise<void>
  release(id: string): Promise<void>
}

export class FakeTasks {
  readonly #host: TaskHost
  readonly #rpc: Rpc
  readonly #tasks = new Map<string, Task>()
  readonly #ended = new AbortController()
  #streams = 0
  #lastPid = 1

  constructor(host: TaskHost, rpc: Rpc) {
    this.#host = host
    this.#rpc = rpc
  }

  list(): readonly { readonly containerId: string; readonly pid: number; readonly status: string }[] {
    return [...this.#tasks].map(([containerId, { pid, status }]) => ({ containerId, pid, status: status.toLowerCase() }))
  }

  async purge(id: string): Promise<void> {
    this.#tasks.get(id)?.end(137)
    if (this.#tasks.delete(id)) await this.#host.release(id)
  }

  /** Every stream and every Wait ends. */
  close(): void {
    for (const task of this.#tasks.values()) task.end(137)
    this.#ended.abort()
  }

  readonly task: Handlers<ServiceTypesOf<'task'>> = {
    Create: async (request, { signal }) => {
      if (this.#tasks.has(request.id)) throw new RuntimeError('ALREADY_EXISTS', `task ${request.id} exists already`)
      await this.#host.prepare(request.id, signal)
      const { id, bundle, stdin, stdout, stderr, terminal } = request
      const task = new Task(++this.#lastPid, { id, bundle, stdin, stdout, stderr, terminal })
      this.#tasks.set(id, task)
      return { pid: task.pid }
    },
    Start: ({ id, execId }) => {
      const task = this.#get(id, execId)
      task.started = true
      return { pid: task.pid }
    },
    State: ({ id, execId }) => {
      const task = this.#get(id, execId)
      return { ...task.request, pid: task.pid, status: task.status, ...exitFields(task) }
    },
    Connect: ({ id }) => ({ shimPid: 1, taskPid: this.#get(id, '').pid, version: '3' }),
    Pids: ({ id }) => ({ processes: [{ pid: this.#get(id, '').pid }] }),
    Wait: async ({ id, execId }) => {
      const task = this.#get(id, execId)
      await task.exited
      return exitFields(task)
    },
    Kill: ({ id, execId, signal }) => {
      const task = this.#get(id, execId)
      if (task.exit !== undefined) throw new RuntimeError('NOT_FOUND', `task ${id} has exited`)
      task.end(128 + signal)
      return {}
    },
    Delete: async ({ id, execId }) => {
      const task = this.#get(id, execId)
      task.end(137)
      this.#tasks.delete(id)
      await this.#host.release(id)
      return { pid: task.pid, ...exitFields(task) }
    },
    CloseIO: () => ({}),
    ResizePty: () => ({}),
    Update: () => ({}),
    Pause: () => ({}),
    Resume: () => ({}),
    Shutdown: () => ({}),
    Stats: () => ({ stats: this.metrics() }),
    Exec: ({ id }) => {
      throw new RuntimeError('UNIMPLEMENTED', `task ${id} is a fake: nothing can be run in it`)
    },
  }

  readonly streaming: Handlers<ServiceTypesOf<'streaming'>> = {
    Stream: (requests, { signal }) => this.#stream(requests, signal),
  }

  metrics() {
    return this.#rpc.any.pack('io.containerd.cgroups.v2.Metrics', { pids: { current: String(this.#tasks.size) }, memory: { usage: '0' }, cpu: { usageUsec: '0' } })
  }

  /** Acknowledged at once, whoever's it is: containerd opens streams before it creates the task. */
  async *#stream(requests: AsyncIterable<{ readonly type_url: string; readonly value: Buffer }>, signal: AbortSignal) {
    if (this.#streams >= STREAMS_MAX) throw new RuntimeError('RESOURCE_EXHAUSTED', `${this.#streams} streams are open, which is the limit`)
    this.#streams++
    try {
      const incoming = requests[Symbol.asyncIterator]()
      const first = await incoming.next()
      if (first.done === true) return
      const { id } = this.#rpc.any.unpack(first.value, 'containerd.services.streaming.v1.StreamInit')
      yield { type_url: 'google.protobuf.Empty', value: Buffer.alloc(0) }
      const over = new AbortController()
      const drained = drain(incoming).then(() => over.abort())
      await this.#taskOf(id, AbortSignal.any([signal, over.signal, this.#ended.signal]))
      void drained.catch(() => {})
    } finally {
      this.#streams--
    }
  }

  /** Resolves when the task a stream belongs to has ended, or the stream has. */
  async #taskOf(streamId: string, signal: AbortSignal): Promise<void> {
    const { promise: over, resolve } = Promise.withResolvers<void>()
    signal.addEventListener('abort', () => resolve(), { once: true })
    if (signal.aborted) return
    const taskId = streamId.slice(0, streamId.lastIndexOf('-'))
    // The stream is older than its task: look for it until it is there.
    while (!signal.aborted) {
      const task = this.#tasks.get(taskId)
      if (task !== undefined) return void (await Promise.race([task.exited, over]))
      const { promise: later, resolve: wake } = Promise.withResolvers<void>()
      const timer = setTimeout(wake, 50)
      await Promise.race([later, over])
      clearTimeout(timer)
    }
  }

  #get(id: string, execId: string): Task {
    const task = execId === '' ? this.#tasks.get(id) : undefined
    if (task === undefined) throw new RuntimeError('NOT_FOUND', `no task ${id}${execId === '' ? '' : ` with an exec ${execId}`}`)
    return task
  }
}

async function drain(incoming: AsyncIterator<unknown>): Promise<void> {
  while ((await incoming.next()).done !== true);
}

const exitFields = ({ exit }: Task) =>
  exit === undefined ? {} : { exitStatus: exit.status, exitedAt: { seconds: String(Math.floor(exit.atMs / 1000)), nanos: (exit.atMs % 1000) * 1e6 } }
