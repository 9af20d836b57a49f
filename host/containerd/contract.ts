/** What the sandboxer asks of containerd, as plain data: generated types stop inside host/containerd/. */

export interface ContainerRecord {
  readonly id: string
  readonly sandboxId: string
  readonly snapshotter: string
  readonly snapshotKey: string
  readonly runtime: string
  readonly labels: Readonly<Record<string, string>>
}

/** A mount as a snapshotter describes it. */
export interface SnapshotMount {
  readonly type: string
  readonly source: string
  readonly target: string
  readonly options: readonly string[]
}

export interface StoredSandbox {
  readonly id: string
  readonly sandboxer: string
}

export interface TaskRecord {
  readonly containerId: string
  readonly pid: number
  /** "created", "running", "stopped", "paused", "pausing", "unknown" */
  readonly status: string
}

export interface EventEnvelope {
  readonly topic: string
  readonly typeUrl: string
  readonly value: Buffer
}

/** Every call rejects with RuntimeError: UNAVAILABLE while containerd is away, NOT_FOUND for unknown ids. */
export interface Containerd {
  /** This, and `snapshotMounts`, wait some seconds for a containerd that is away. */
  container(id: string, signal: AbortSignal): Promise<ContainerRecord>
  containersOf(sandboxId: string, signal: AbortSignal): Promise<readonly ContainerRecord[]>
  snapshotMounts(snapshotter: string, key: string, signal: AbortSignal): Promise<readonly SnapshotMount[]>
  sandboxes(signal: AbortSignal): Promise<readonly StoredSandbox[]>
  tasks(signal: AbortSignal): Promise<readonly TaskRecord[]>
  /** Has it forget a task whose guest is gone, and its bundle; also when it knows of none. Lists do not have such a task. */
  dropTask(containerId: string, signal: AbortSignal): Promise<void>
  publish(event: EventEnvelope, signal: AbortSignal): Promise<void>
  /** True when containerd answers within `signal`'s time. */
  reachable(signal: AbortSignal): Promise<boolean>
  close(): void
}
