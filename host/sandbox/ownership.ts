/**
 * What a sandbox owns outside the sandboxer's memory, and the one rule about it: the intent is on disk before
 * the thing exists, and is struck out only after the thing is gone. Recovery after any crash is then a walk over
 * the record.
 */

/** A process started for a sandbox. Identity is pid and start time together, so a reused pid is never mistaken. */
export interface OwnedProcess {
  readonly kind: 'process'
  /** "qemu", "virtiofsd", … unique within the sandbox */
  readonly name: string
  /** Undefined while only intended: then it is found by `KUASAR_PROCESS=<sandbox id>/<name>` in its environment. */
  readonly pid?: number
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  readonly startTicks?: string
}

export interface OwnedMount {
  readonly kind: 'mount'
  readonly target: string
  /** Set when the mount serves one container and goes with it. One that serves several is named once for each, and goes with the last. */
  readonly containerId?: string
  /** The directory or file made for it alone to cover, as seen without it: removed after it */
  readonly point?: string
}

export interface OwnedDirectory {
  readonly kind: 'directory'
  readonly path: string
  readonly containerId?: string
}

/** A unix socket or another single file. */
export interface OwnedFile {
  readonly kind: 'file'
  readonly path: string
}

/** One cgroup directory, in one hierarchy. */
export interface OwnedCgroup {
  readonly kind: 'cgroup'
  readonly path: string
}

/** A network device of ours inside a network namespace. */
export interface OwnedLink {
  readonly kind: 'link'
  readonly netns: string
  readonly name: string
  /** The pod's own device whose frames are redirected to this one: the redirection goes with it, the device stays. */
  readonly uplink?: string
}

export type OwnedResource = OwnedProcess | OwnedMount | OwnedDirectory | OwnedFile | OwnedCgroup | OwnedLink

/** The part of a sandbox's ledger that creators of resources see. */
export interface Ownership {
  readonly sandboxId: string
  /**
   * Records the intent durably (written, fsynced, renamed), runs `create`, records what it returned in place of the
   * intent. When `create` throws, the resource is undone as recovery would and the error passes on.
   */
  acquire<R extends OwnedResource>(intent: R, create: () => Promise<R | void>): Promise<R>
  /** Several resources under one durable write before and one after: for hot paths. */
  acquireAll(intents: readonly OwnedResource[], create: () => Promise<readonly OwnedResource[] | void>): Promise<void>
  /**
   * Undoes and strikes out every matching resource, newest first. A mount that is named by another resource as well is only struck
   * out. Tolerates what is gone already. Collects errors.
   */
  release(match: (resource: OwnedResource) => boolean): Promise<void>
  /** What is owned, but for what is being undone. */
  list(): readonly OwnedResource[]
}
