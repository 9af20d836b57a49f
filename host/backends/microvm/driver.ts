/** All that a VMM brings of its own. Everything around it (helpers, supervision, adoption) is the same for every VMM. */
import type { Nic } from '#host/sandbox/backend.ts'
import type { Accelerator, AcceleratorSetting } from './kvm.ts'

/** A program and its arguments, ready to run. */
export interface Command {
  readonly file: string
  readonly args: readonly string[]
}

/** One VM, decided: sizes and paths only. */
export interface VmPlan {
  readonly sandboxId: string
  readonly vcpus: number
  readonly memoryMiB: number
  readonly accelerator: Accelerator
  readonly nics: readonly Nic[]
  /** The guest's log level, for the kernel command line */
  readonly logLevel: string
  readonly paths: VmPaths
}

/** Everything of a VM that lies in its sandbox's directory. */
export interface VmPaths {
  /** The VMM's control socket */
  readonly control: string
  /** What the guest's console prints */
  readonly console: string
  /** vhost-user socket of the virtiofsd that serves the share */
  readonly virtiofs: string
  /** ... and of the one that serves the roots in it */
  readonly roots: string
  /** vhost-user socket of vhost-device-vsock */
  readonly vhostVsock: string
  /** Hybrid vsock socket, for dialling the guest */
  readonly vsock: string
}

/** A connection to a running VMM's control socket. */
export interface VmmControl {
  /** "running", "paused", … in the VMM's words. Errors: UNAVAILABLE when it does not answer in the signal's time. */
  status(signal: AbortSignal): Promise<string>
  /** What the VMM said about its end, when it said anything ("guest-panic"). */
  ending(): string | undefined
  /** Whether that was the guest's own doing. */
  endedByGuest(): boolean
  /** Resolves when the VMM says that its VM has ended, before its process has. Never rejects, and may never resolve. */
  readonly announced: Promise<void>
  close(): void
}

/** Keys every microVM backend's configuration has. */
export interface MicrovmConfig {
  readonly path: string
  readonly accel: AcceleratorSetting
  readonly kernel: string
  readonly initramfs: string
  readonly rootfs: string
  readonly virtiofsd: string
  readonly vhost_device_vsock: string
}

export interface VmmDriver<C extends MicrovmConfig> {
  /** Names the VMM's process in the ledger, its log and messages ("qemu"). */
  readonly name: string
  command(plan: VmPlan, config: C): Command
  /** Connects to the VMM of a plan. Errors: UNAVAILABLE when it does not answer in the signal's time. */
  control(socket: string, signal: AbortSignal): Promise<VmmControl>
}
