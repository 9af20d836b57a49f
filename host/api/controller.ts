/**
 * containerd.services.sandbox.v1.Controller. What containerd relies on, beyond the words of the messages, is said at
 * each method; the source is containerd 2.1's CRI plugin and sandbox controllers.
 */
import { RuntimeError } from '#shared/errors.ts'
import { sandboxId } from '#shared/ids.ts'
import type { Rpc, ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers, Metadata } from '#shared/ttrpc/method.ts'
import type { Sizing } from '../sandbox/plan.ts'
import type { Sandbox } from '../sandbox/sandbox.ts'
import type { Sandboxes } from '../sandbox/sandboxes.ts'
import { containerdState } from '../sandbox/state.ts'
import { nowMs } from '../sandbox/trace.ts'
import { podRequest } from './pod-request.ts'
import { sandboxSpec } from './sandbox-spec.ts'

/** containerd.task.v3. Below it containerd would start a shim. */
const TASK_API_VERSION = 3
/** What a guest gets to answer for Metrics, in ms. */
const METRICS_TIMEOUT_MS = 10_000
const NAMESPACE_HEADER = 'containerd-namespace'

export interface ControllerOptions {
  readonly rpc: Rpc
  readonly sandboxes: Sandboxes
  /** For calls that carry no namespace */
  readonly namespace: string
  readonly sizing: Sizing
  readonly cgroupParent: string
}

export function createController({ rpc, sandboxes, namespace, sizing, cgroupParent }: ControllerOptions): Handlers<ServiceTypesOf<'controller'>> {
  return {
    /** Checks everything that can be known before anything runs, so that a pod that cannot be fails at once. */
    async Create(request, { metadata, signal }) {
      const arrivedAtMs = nowMs()
      const id = sandboxId(request.sandboxId)
      if (request.options === null)
        throw new RuntimeError('INVALID_ARGUMENT', `sandbox ${id} comes without options: expected a runtime.v1.PodSandboxConfig, as CRI sends it`)
      const pod = podRequest(id, rpc.any.unpack(request.options, 'runtime.v1.PodSandboxConfig'), request.netnsPath)
      const sandbox = await sandboxes.create(id, pod, {
        sandboxer: request.sandboxer,
        namespace: namespaceOf(metadata) ?? namespace,
        sizing,
        cgroupParent,
      })
      // Whoever has given up calls neither Start nor Shutdown.
      if (signal.aborted) {
        await sandbox.shutdown()
        throw signal.reason
      }
      sandbox.created(arrivedAtMs)
      return { sandboxId: id }
    },

    /**
     * Answers once the guest's agent listens, for containerd dials at once. After an error CRI 2.1 calls neither Stop
     * nor Shutdown. pid 0 keeps containerd from naming namespaces of a host process in the containers' specs.
     */
    async Start({ sandboxId: id }, { signal }) {
      const sandbox = sandboxes.get(id)
      const { running } = await sandbox.start(signal)
      return {
        sandboxId: id,
        pid: 0,
        createdAt: timestamp(sandbox.record.createdAtMs),
        labels: {},
        address: running.taskAddress,
        version: TASK_API_VERSION,
        spec: sandboxSpec(sandbox.record.plan),
      }
    },

    /** Asked at every CreateContainer and every stats call. */
    Platform({ sandboxId: id }) {
      sandboxes.get(id)
      return { platform: { os: 'linux', architecture: goArchitecture() } }
    },

    /** CNI's DEL and the removal of the network namespace follow the answer. */
    async Stop({ sandboxId: id }) {
      await sandboxes.find(id)?.stop()
      return {}
    },

    /** Any error but UNAVAILABLE would mark the pod as ended. */
    async Wait({ sandboxId: id }, { signal }) {
      const { status, atMs } = await sandboxes.get(id).wait(signal)
      return { exitStatus: status, exitedAt: timestamp(atMs) }
    },

    /** From memory: a guest that hangs must not hang the node. NOT_FOUND reads as not ready. */
    Status({ sandboxId: id, verbose }) {
      const sandbox = sandboxes.get(id)
      const { record, state } = sandbox
      return {
        sandboxId: id,
        pid: 0,
        state: containerdState(state.kind),
        info: verbose ? { info: JSON.stringify(describe(sandbox)) } : {},
        createdAt: timestamp(record.createdAtMs),
        ...(state.kind === 'stopped' ? { exitedAt: timestamp(state.exit.atMs) } : {}),
        address: record.taskAddress ?? '',
        version: TASK_API_VERSION,
      }
    },

    /** May come without a Stop before it, and for a sandbox that never started. */
    async Shutdown({ sandboxId: id }) {
      await sandboxes.find(id)?.shutdown()
      return {}
    },

    /** An answer without data would break CRI's stats of every pod: an error does not. */
    async Metrics({ sandboxId: id }, { signal }) {
      const { agent } = sandboxes.get(id).guest
      const { metrics, realtimeNanos } = await agent.stats(AbortSignal.any([signal, AbortSignal.timeout(METRICS_TIMEOUT_MS)]))
      const decoded = rpc.any.unpack(metrics, 'io.containerd.cgroups.v2.Metrics')
      return { metrics: { timestamp: timestamp(Number(BigInt(realtimeNanos) / 1_000_000n)), id, data: rpc.any.pack('io.containerd.cgroups.v2.Metrics', decoded) } }
    },

    /** Names no sandboxer. A VM of ours does not change its size; containerd tolerates being told so. */
    Update({ sandboxId: id, fields, sandbox }) {
      sandboxes.get(id)
      if (fields.includes('extensions') && Object.hasOwn(sandbox?.extensions ?? {}, 'updated-resources'))
        throw new RuntimeError('UNIMPLEMENTED', `sandbox ${id}: a running VM is not resized; its containers' limits are changed inside it`)
      return {}
    },
  }
}

/** For people: `crictl inspectp`. */
function describe({ record, state }: Sandbox): unknown {
  return {
    state: state.kind,
    sandboxer: record.sandboxer,
    vcpus: record.plan.vcpus,
    memoryMiB: record.plan.memoryMiB,
    cgroup: record.plan.cgroupPath,
    vmmPid: record.vmmPid,
    agent: record.agent,
    taskAddress: record.taskAddress,
    containers: record.containers,
    ...(state.kind === 'stopped' ? { exit: state.exit } : {}),
  }
}

const timestamp = (ms: number): { seconds: string; nanos: number } => ({
  seconds: String(Math.floor(ms / 1000)),
  nanos: Math.round((ms - Math.floor(ms / 1000) * 1000) * 1e6),
})

const namespaceOf = (metadata: Metadata): string | undefined => metadata[NAMESPACE_HEADER]?.[0]

/** Go's name of this machine's architecture, which is what an OCI platform carries. */
function goArchitecture(): string {
  const names: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' }
  return names[process.arch] ?? process.arch
}
