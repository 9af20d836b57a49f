/** A microVM that runs, whether started here or found again. */
import { RuntimeError } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import { dialHybrid } from '#host/link/dial.ts'
import type { RunningSandbox } from '#host/sandbox/backend.ts'
import { consoleTail } from '#host/sandbox/console.ts'
import type { VmPaths, VmmControl } from './driver.ts'
import { boundLogs } from './logs.ts'
import { Panics } from './panics.ts'
import type { HostProcess } from './process.ts'
import { supervise } from './supervise.ts'

/** vsock port of the agent's Task and Streaming services. */
export const TASK_PORT = 1024

export interface RunningOptions {
  readonly dir: string
  readonly paths: VmPaths
  /** The VMM first */
  readonly processes: readonly HostProcess[]
  readonly control: VmmControl
  readonly servesRoots: boolean
  readonly adoption: unknown
  readonly log: Log
}

export function runningSandbox({ dir, paths, processes, control, servesRoots, adoption, log }: RunningOptions): RunningSandbox {
  const panics = new Panics(dir, processes.slice(1).map(({ name }) => name))
  const logs = boundLogs(dir, log, (path) => panics.look(path))
  // One may have panicked while no sandboxer looked.
  panics.look().catch((error: unknown) => log.warn('the logs cannot be read', { error }))
  const supervised = supervise({ processes, ending: () => control.ending(), endedByGuest: () => control.endedByGuest(), announced: control.announced, panicked: panics.first })
  const detach = () => {
    logs[Symbol.dispose]()
    control.close()
    for (const process of processes) process.detach()
  }
  // The dead print nothing, and say nothing more.
  const tidy = async () => {
    await supervised.exited
    logs[Symbol.dispose]()
    control.close()
  }
  void tidy()
  return {
    taskAddress: `ttrpc+hvsock://${paths.vsock}:${TASK_PORT}`,
    vmmPid: processes[0]?.pid ?? 0,
    servesRoots,
    adoption,
    exited: supervised.exited,
    detach,
    dial: (port, signal) => dialHybrid(paths.vsock, port, signal),
    consoleTail: (linesMax) => consoleTail(paths.console, linesMax),
    async kill() {
      supervised.expect()
      const results = await Promise.allSettled(processes.map((process) => process.kill()))
      const failures = results.filter((result) => result.status === 'rejected').map((result) => String(result.reason))
      if (failures.length > 0) throw new RuntimeError('INTERNAL', failures.join('; '))
    },
  }
}
