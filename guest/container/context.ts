/** What containers are made with, and the two things every part of their life does. */
import { explain } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { PodPidNamespace } from '../runtime/pod-pid.ts'
import type { OciRuntime } from '../runtime/runtime.ts'
import type { Storages } from '../storage/storages.ts'
import type { Submounts } from '../storage/submounts.ts'
import type { IoContext, IoPolicy } from './io.ts'
import type { Exits, Preparer, TaskEvent, TaskEvents } from './ports.ts'
import type { SpecContext } from './spec.ts'

export interface ContainersContext {
  readonly runtime: OciRuntime
  readonly reaper: Exits
  readonly preparer: Preparer
  readonly events: TaskEvents
  readonly storages: Storages
  readonly submounts: Submounts
  readonly podPid: PodPidNamespace
  readonly io: IoContext
  readonly initPolicy: IoPolicy
  readonly execPolicy: IoPolicy
  readonly log: Log
  /** CLOCK_BOOTTIME in nanoseconds. */
  bootTimeNanos(): bigint
  /** Bundles are directories below it. */
  readonly bundleRoot: string
  readonly cgroupRoot: string
  readonly podCgroup: string
  /** Guest paths and abilities that go into every spec. */
  readonly spec: Omit<SpecContext, 'cgroupsPath' | 'terminal' | 'pidNamespace'>
}

/** Tells containerd; nobody waits for it. */
export function publish({ events }: Pick<ContainersContext, 'events'>, event: TaskEvent): void {
  void events.publish(event)
}

/** A step of an undo: its failure is told, and the other steps go on. */
export async function attempt({ log }: ContainersContext, what: string, work: Promise<void>): Promise<void> {
  try {
    await work
  } catch (error) {
    log.warn(`could not ${what}`, { error: explain(error) })
  }
}
