/**
 * The contract between the sandboxer and an isolation technology. A backend turns a plan into a running sandbox
 * whose agent will call back on `plan.linkSocket`; it knows nothing of containerd, CRI or containers.
 */
import type { Socket } from 'node:net'
import type { Log } from '#shared/log.ts'
import type { Ownership, OwnedResource } from './ownership.ts'

/** virtiofs tags of `LaunchPlan.sharedDir`, which a guest is given twice: volumes change on the host at any time, ... */
export const SHARE_TAG = 'kuasar'
/** ... and roots are the guest's own, so it may keep what it has read of them. */
export const ROOTS_TAG = 'kuasar-roots'

export interface Capabilities {
  /** How a container's root file system reaches the guest. "none": the guest sees the host's paths (fake backend). */
  readonly sharing: 'virtiofs' | 'none'
  /** True when the guest's kernel is its own. */
  readonly ownKernel: boolean
  /** The guest carries forwarded ports: its agent serves shared/forward on its vsock. */
  readonly portForward: boolean
  readonly blockHotplug: boolean
  readonly snapshot: boolean
}

/** A network card of the guest and the tap behind it. */
export interface Nic {
  readonly tap: string
  readonly mac: string
  /** Pairs of queues; above 1 the tap is made for several */
  readonly queues: number
}

/** What to start, decided purely from the request and the configuration. */
export interface LaunchPlan {
  readonly sandboxId: string
  /** The sandbox's own directory on the host, 0700, existing. Sockets go directly into it: their path stays under 107 bytes. */
  readonly dir: string
  /** Existing directory, a shared mount of its own, that the guest must see under SHARE_TAG and under ROOTS_TAG. */
  readonly sharedDir: string
  /** Unix socket on which the sandboxer already listens for the guest's link (`<dir>/vsock_<LINK_PORT>`). */
  readonly linkSocket: string
  readonly vcpus: number
  readonly memoryMiB: number
  /** The network namespace to run the VMM in, the pod's or a warm VM's own; undefined for none. */
  readonly netnsPath: string | undefined
  /** The guest's network cards, in their order; each one's tap is there, in that namespace, and root's to open. */
  readonly nics: readonly Nic[]
  /** cgroup.procs files (one per hierarchy in use) that every started process must be written to before it runs. */
  readonly cgroupProcs: readonly string[]
  /** Pod annotations under the `io.kuasar.` prefix. */
  readonly annotations: Readonly<Record<string, string>>
  readonly logLevel: string
}

/** A named step of a launch, for the start-up waterfall. Milliseconds since the epoch, fractions allowed. */
export type Mark = (name: string, startMs: number, endMs: number, attributes?: Readonly<Record<string, string>>) => void

/** All that a launch may use besides its plan. */
export interface LaunchContext {
  readonly ownership: Ownership
  readonly log: Log
  readonly mark: Mark
  readonly signal: AbortSignal
}

/**
 * What ended a sandbox that nobody asked to end.
 *
 * vmm, virtiofsd, vsock  a process died, or a thread of a helper
 * guest                  it ended its own machine: its agent died, its kernel panicked, it started anew
 * heartbeat              it did not answer
 * stopped                a process of it was stopped by a signal
 */
export const culprits = ['vmm', 'virtiofsd', 'vsock', 'guest', 'heartbeat', 'stopped'] as const
export type Culprit = (typeof culprits)[number]

export interface SandboxExit {
  /** Why the sandbox is no longer alive: "qemu exited", "virtiofsd died", … */
  readonly reason: string
  readonly of: Culprit
  readonly atMs: number
  /** True when the sandboxer asked for it. */
  readonly expected: boolean
}

/** A sandbox whose processes run. Its agent may not be up yet: that is learned on the link. */
export interface RunningSandbox {
  /** What containerd dials for Task and Streaming calls. */
  readonly taskAddress: string
  /** The VMM's pid on the host; 0 when there is none. */
  readonly vmmPid: number
  /** False for a sandbox of an earlier sandboxer, whose guest knows the share by SHARE_TAG alone. */
  readonly servesRoots: boolean
  /** Everything to find the sandbox again, kept in the ledger record. JSON. */
  readonly adoption: unknown
  /** Resolves once, at the first death of any process the sandbox cannot live without. Never rejects. */
  readonly exited: Promise<SandboxExit>
  /** A connection to a vsock port of the guest. Errors: UNAVAILABLE when nothing listens, within `signal`'s time. */
  dial(port: number, signal: AbortSignal): Promise<Socket>
  /** The last lines the guest's console printed, oldest first; control characters removed; empty without a console. */
  consoleTail(linesMax: number): Promise<string[]>
  /** Resident memory and CPU of the sandbox's host processes are read from its cgroup, not here. */
  /** Ends every process of the sandbox, by force, and waits until they are gone. Idempotent. */
  kill(): Promise<void>
  /** Forgets the sandbox without touching it: watchers and control connections closed (sandboxer exit). */
  detach(): void
}

/** What a sandbox left in its ledger record; the backend finds its processes by it. */
export interface AdoptionRecord {
  readonly sandboxId: string
  readonly plan: Omit<LaunchPlan, 'signal'>
  readonly adoption: unknown
  readonly owned: readonly OwnedResource[]
}

export interface SandboxBackend<C> {
  /** The `kind` named in the configuration ("qemu", "fake"). */
  readonly kind: string
  readonly capabilities: Capabilities
  /** Defaults filled in; throws RuntimeError INVALID_ARGUMENT naming key, value and what was expected. */
  parseConfig(raw: unknown, at: string): C
  /** Looks at the machine before the first pod: binaries, devices. Warnings are logged, an impossibility is thrown. */
  probe(config: C, log: Log): Promise<void>
  /** Throws RuntimeError naming the step that failed. What it acquired by `ownership` is undone by the caller. */
  launch(plan: LaunchPlan, config: C, context: LaunchContext): Promise<RunningSandbox>
  /** Throws RuntimeError NOT_FOUND when the sandbox is dead, UNAVAILABLE when it is alive but cannot be driven. */
  adopt(record: AdoptionRecord, config: C, context: LaunchContext): Promise<RunningSandbox>
}
