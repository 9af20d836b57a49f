/** What containers need from the rest of the agent: contracts only. */
import type { Storage } from '../storage/storages.ts'
import type { Exit } from './state.ts'
import type { Stdio } from './stdio.ts'

export type PidNamespaceMode =
  | { readonly kind: 'private' }
  | { readonly kind: 'pod' }
  | { readonly kind: 'target'; readonly pid: number }

export interface PreparedContainer {
  /** OCI runtime spec with guest paths, JSON. */
  readonly spec: Buffer
  readonly storages: readonly Storage[]
  readonly pidNamespace: PidNamespaceMode
}

/** The sandboxer: the only one who can make a container's files visible in the guest. */
export interface Preparer {
  /** Errors: NOT_FOUND no such container in this sandbox; UNAVAILABLE while the sandboxer is away. */
  prepare(containerId: string): Promise<PreparedContainer>
  /** `sources`: what the container's mounts came from, as far as it came. Idempotent. */
  release(containerId: string, sources: readonly string[]): Promise<void>
}

/** PID 1's word on processes that are nobody's children. */
export interface Exits {
  /** How the process that holds `pid` now ends; `sinceNanos`: a CLOCK_BOOTTIME before it was made. Never rejects. */
  claim(pid: number, sinceNanos: bigint): Promise<Exit>
}

/** When `crun create` ran, by CLOCK_BOOTTIME. */
export interface CrunTime {
  readonly beganNanos: bigint
  readonly endedNanos: bigint
}

/** What happened to a task, for containerd's event bus. */
export type TaskEvent =
  | { readonly kind: 'create'; readonly containerId: string; readonly bundle: string; readonly stdio: Stdio; readonly pid: number; readonly crun: CrunTime }
  | { readonly kind: 'start'; readonly containerId: string; readonly pid: number }
  | { readonly kind: 'oom'; readonly containerId: string }
  /** `id`: the exec's, or the container's for its init. */
  | { readonly kind: 'exit'; readonly containerId: string; readonly id: string; readonly pid: number; readonly exit: Exit }
  /** `execId`: empty for the init. */
  | { readonly kind: 'delete'; readonly containerId: string; readonly execId: string; readonly pid: number; readonly exit: Exit }
  | { readonly kind: 'exec-added'; readonly containerId: string; readonly execId: string }
  | { readonly kind: 'exec-started'; readonly containerId: string; readonly execId: string; readonly pid: number }
  | { readonly kind: 'paused'; readonly containerId: string }
  | { readonly kind: 'resumed'; readonly containerId: string }

export interface TaskEvents {
  /** Resolves once containerd has the event, or it was dropped. Never rejects. */
  publish(event: TaskEvent): Promise<void>
}
