/** What every sandbox of this sandboxer shares. */
import type { Socket } from 'node:net'
import type { Log } from '#shared/log.ts'
import type { Mounts } from '#shared/os/contract.ts'
import type { ContainerPreparer } from '../container/contract.ts'
import type { Containerd } from '../containerd/contract.ts'
import type { Forwards } from '../forward/forwards.ts'
import type { AgentLink } from '../link/agent.ts'
import type { BoundBackend } from './backends.ts'
import type { GuestLinks } from './guest.ts'
import type { Observer } from './observer.ts'
import type { RecordStore } from './store.ts'
import type { Undo } from './undo.ts'
import type { WarmSupply } from './warm-pool.ts'

/** All in ms. What each bounds is said in config/config.ts. */
export interface SandboxLimits {
  readonly startMs: number
  readonly stopGraceMs: number
  readonly stopMs: number
  readonly adoptMs: number
  readonly beatMs: number
  readonly settleMs: number
  readonly busyMs: number
}

/** What it takes to bring a VM up. */
export interface LaunchServices {
  /** Of the sandboxes: `<sandboxesDir>/<id>/` */
  readonly sandboxesDir: string
  /** containerd's namespace */
  readonly namespace: string
  readonly bootId: string
  readonly store: RecordStore
  readonly undo: Undo
  readonly mounts: Mounts
  /** Mount points of the cgroup hierarchies pods are put into */
  readonly cgroupRoots: readonly string[]
  readonly backend: (sandboxer: string) => BoundBackend | undefined
  readonly links: GuestLinks
  readonly forwards: Forwards
  readonly limits: Pick<SandboxLimits, 'startMs'>
  readonly logLevel: () => string
  readonly log: Log
  readonly observer: Observer
}

export interface SandboxServices extends LaunchServices {
  readonly agent: (dial: (port: number, signal: AbortSignal) => Promise<Socket>) => AgentLink
  readonly preparer: ContainerPreparer
  readonly containerd: Containerd
  readonly warm: WarmSupply
  readonly limits: SandboxLimits
}
