/**
 * containerd's own API, as far as the sandboxer asks it. Connections come and go with containerd; a call made while it
 * is away fails at once as UNAVAILABLE, and the next one tries again. Those that a container's preparation makes wait instead: it is
 * containerd that has asked for the container, so it is there, or about to be, and only gRPC has not tried again yet.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { RuntimeError, hasCode } from '#shared/errors.ts'
import { connectGrpc, type GrpcConnection } from '#shared/rpc/grpc-client.ts'
import type { MessageOut } from '#shared/rpc/any.ts'
import type { Rpc } from '#shared/rpc/services.ts'
import type { Containerd, ContainerRecord, SnapshotMount, TaskRecord } from './contract.ts'

/** Metadata, from containerd's database. */
const CALL_TIMEOUT_MS = 10_000

/** How long a preparation waits for a containerd that is away. gRPC pauses for a second at most between two tries. */
const BACK_MS_MAX = 10_000

/** containerd asks every task for its state, up to 2 s each, sixteen and more at a time. */
const TASKS_TIMEOUT_MS = 60_000

const REACH_TIMEOUT_MS = 2_000

/** Between two tries to reach a containerd that is away. */
const RECONNECT_MS = 250

/** Matches nothing: the stream's end is all that is waited for. */
const NO_EVENT = 'topic=="/kuasar/never"'

/** The services it speaks; a subset of what loadServices gives. */
export type ContainerdRpc = Rpc<'containers' | 'snapshots' | 'tasks' | 'events' | 'store' | 'version'>

export interface ContainerdOptions {
  /** "/run/containerd/containerd.sock" by default */
  readonly socketPath: string
  /** "k8s.io" under CRI */
  readonly namespace: string
  readonly rpc: ContainerdRpc
}

export interface ContainerdClient extends Containerd {
  /**
   * Yields "up" each time containerd has become reachable, the one that is there included, and "down" when it has gone.
   * Ends, without an error, when `signal` is aborted.
   */
  connections(signal: AbortSignal): AsyncGenerator<'up' | 'down'>
}

export function createContainerd({ socketPath, namespace, rpc }: ContainerdOptions): ContainerdClient {
  const connection: GrpcConnection = connectGrpc(socketPath, { namespace })
  const containers = connection.calls(rpc.containers)
  const snapshots = connection.calls(rpc.snapshots)
  const tasks = connection.calls(rpc.tasks)
  const events = connection.calls(rpc.events)
  const store = connection.calls(rpc.store)
  const version = connection.calls(rpc.version)

  async function reachable(signal: AbortSignal): Promise<boolean> {
    try {
      await version.Version({}, { signal, timeoutMs: REACH_TIMEOUT_MS })
      return true
    } catch {
      return false
    }
  }

  return {
    async container(id, signal) {
      const { container } = await whenBack(signal, () => containers.Get({ id }, limits(signal)))
      if (container === null) throw new RuntimeError('NOT_FOUND', `containerd has no container ${id}`)
      return recordOf(container)
    },
    async containersOf(sandboxId, signal) {
      // containerd's filters know no sandbox. Source: adaptContainer in core/metadata.
      const { containers: all } = await containers.List({}, limits(signal))
      return all.filter(({ sandbox }) => sandbox === sandboxId).map(recordOf)
    },
    async snapshotMounts(snapshotter, key, signal) {
      const { mounts } = await whenBack(signal, () => snapshots.Mounts({ snapshotter, key }, limits(signal)))
      return mounts.map(({ type, source, target, options }): SnapshotMount => ({ type, source, target, options }))
    },
    async sandboxes(signal) {
      const { list } = await store.List({}, limits(signal))
      return list.map(({ sandboxId, sandboxer }) => ({ id: sandboxId, sandboxer }))
    },
    async tasks(signal) {
      const { tasks: all } = await tasks.List({}, { signal, timeoutMs: TASKS_TIMEOUT_MS })
      return all.map(taskOf)
    },
    async dropTask(containerId, signal) {
      try {
        await tasks.Delete({ containerId }, limits(signal))
      } catch (error) {
        // It has, and says that the connection is closed. Source: shimTask.delete in core/runtime/v2.
        if (!hasCode(error, 'NOT_FOUND') && !hasCode(error, 'UNKNOWN')) throw error
      }
    },
    async publish({ topic, typeUrl, value }, signal) {
      await events.Publish({ topic, event: { type_url: typeUrl, value } }, limits(signal))
    },
    reachable,
    async *connections(signal) {
      while (!signal.aborted) {
        if (await reachable(signal)) {
          const gone = ended(events.Subscribe({ filters: [NO_EVENT] }, { signal }))
          yield 'up' as const
          await gone
          yield 'down' as const
        }
        await delay(RECONNECT_MS, undefined, { signal }).catch(() => {})
      }
    },
    close: () => connection.close(),
  }
}

const limits = (signal: AbortSignal) => ({ signal, timeoutMs: CALL_TIMEOUT_MS })

/** Asks again while containerd is away, until BACK_MS_MAX have passed. */
async function whenBack<T>(signal: AbortSignal, ask: () => Promise<T>): Promise<T> {
  const sinceMs = performance.now()
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE') || performance.now() - sinceMs > BACK_MS_MAX) throw error
      await delay(RECONNECT_MS, undefined, { signal }).catch(() => {})
    }
  }
}

/** Resolves when the stream is over, whatever ended it. */
async function ended(stream: AsyncIterable<unknown>): Promise<void> {
  try {
    for await (const _ of stream);
  } catch {
    // Its end is the news, not its reason.
  }
}

function recordOf(container: MessageOut<'containerd.services.containers.v1.Container'>): ContainerRecord {
  const { id, sandbox, snapshotter, snapshotKey, runtime, labels } = container
  return { id, sandboxId: sandbox, snapshotter, snapshotKey, runtime: runtime?.name ?? '', labels }
}

/** For a first process containerd fills in either id, as versions go. */
const taskOf = ({ containerId, id, pid, status }: MessageOut<'containerd.v1.types.Process'>): TaskRecord => ({
  containerId: containerId === '' ? id : containerId,
  pid,
  status: status.toLowerCase(),
})
