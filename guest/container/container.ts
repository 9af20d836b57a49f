/** One container: its init, its execs, and what must be undone when it goes. */
import { RuntimeError } from '#shared/errors.ts'
import type { Cgroup } from '../runtime/cgroup.ts'
import { type Exit, hasExited } from './state.ts'
import type { OciProcess } from './oci.ts'
import type { Process } from './process.ts'

/** More execs in one container than any sane client has open; each holds memory for its output. */
export const EXECS_MAX = 1024

export interface Exec {
  readonly id: string
  readonly spec: OciProcess
  readonly process: Process
}

export interface Container {
  readonly id: string
  /** containerd's own path of it, echoed by State. */
  readonly bundle: string
  /** The bundle in the guest. */
  readonly dir: string
  readonly oomScoreAdj: number
  readonly init: Process
  readonly cgroup: Cgroup
  readonly execs: Map<string, Exec>
  /** Exec ids whose Exec call has not finished. */
  readonly execsUnderWay: Set<string>
  readonly undo: AsyncDisposableStack
}

/** The process meant by an exec id; the init for "". NOT_FOUND for an unknown one. */
export function processOf(container: Container, execId: string): Process {
  return execId === '' ? container.init : execOf(container, execId).process
}

export function execOf(container: Container, execId: string): Exec {
  const exec = container.execs.get(execId)
  if (exec === undefined) throw new RuntimeError('NOT_FOUND', `exec ${execId} in container ${container.id}: not found`)
  return exec
}

/** Every process the kernel counts to the container; its first process also when it is gone. Never empty. */
export function pidsOf(container: Container): number[] {
  const pids = hasExited(container.init.state) ? [] : container.cgroup.pids()
  return pids.length === 0 ? [container.init.state.pid] : pids
}

/** Execs end with the container, and those that never ran now never will. */
export function endExecs(container: Container, exit: Exit): void {
  for (const { process } of container.execs.values()) {
    if (process.state.kind !== 'created') continue
    void process.turns.runAlways(async () => {
      if (process.state.kind === 'created') process.end(exit)
    })
  }
}
