/**
 * The life of one process of a container: its init, or an exec.
 *
 *              start           exit               output delivered
 *   created ──────────► running ──────► draining ──────────────────► stopped ───► deleted
 *      │                 │   ▲             ▲  ▲
 *      │           pause │   │ resume      │  │
 *      │                 ▼   │     exit    │  │
 *      │                paused ────────────┘  │
 *      └──────────────────────────────────────┘  killed before its start, or the start failed
 *
 * - created: an init waits inside its namespaces for `start`; an exec is only a description and has no pid.
 * - paused: the container's cgroup is frozen; execs freeze with it but keep their own state.
 * - draining: the kernel has let the process go, but containerd has not yet read its last output. It is reported as
 *   RUNNING, or containerd would cancel the streams and cut the log (containerd-contract, section 0).
 * - stopped: Wait has its answer; Delete is due.
 */
import { RuntimeError } from '#shared/errors.ts'

/** How a process ended. */
export interface Exit {
  /** Exit code, or 128 + the signal's number, as containerd counts. */
  readonly status: number
  /** CLOCK_REALTIME in nanoseconds since the epoch. */
  readonly atNanos: bigint
}

export type ProcessState =
  | { readonly kind: 'created'; readonly pid: number }
  | { readonly kind: 'running'; readonly pid: number }
  | { readonly kind: 'paused'; readonly pid: number }
  | { readonly kind: 'draining'; readonly pid: number; readonly exit: Exit }
  | { readonly kind: 'stopped'; readonly pid: number; readonly exit: Exit }
  | { readonly kind: 'deleted'; readonly pid: number; readonly exit: Exit }

export type StateKind = ProcessState['kind']

/** The status words that containerd and the sandboxer know. */
export type Status = 'created' | 'running' | 'paused' | 'stopped'

export const statusOf: Readonly<Record<StateKind, Status>> = {
  created: 'created',
  running: 'running',
  paused: 'paused',
  draining: 'running',
  stopped: 'stopped',
  deleted: 'stopped',
}

export type Operation = 'start' | 'kill' | 'exec' | 'pause' | 'resume' | 'update' | 'resize' | 'delete'

/** What may be asked of a process in which state. */
export const allowed = {
  created: { start: true, kill: true, exec: true, pause: false, resume: false, update: true, resize: true, delete: true },
  running: { start: false, kill: true, exec: true, pause: true, resume: false, update: true, resize: true, delete: false },
  paused: { start: false, kill: true, exec: false, pause: false, resume: true, update: true, resize: true, delete: false },
  draining: {
    start: false, kill: false, exec: false, pause: false, resume: false, update: false, resize: false, delete: true,
  },
  stopped: {
    start: false, kill: false, exec: false, pause: false, resume: false, update: false, resize: false, delete: true,
  },
  deleted: {
    start: false, kill: false, exec: false, pause: false, resume: false, update: false, resize: false, delete: false,
  },
} as const satisfies Record<StateKind, Record<Operation, boolean>>

/** True once the kernel has let the process go. */
export function hasExited(state: ProcessState): state is Extract<ProcessState, { exit: Exit }> {
  return state.kind === 'draining' || state.kind === 'stopped' || state.kind === 'deleted'
}

/**
 * Throws unless `operation` may run. A process that is gone answers NOT_FOUND to kill and delete: containerd takes
 * any other code for a failure to stop the container.
 */
export function assertAllowed(state: ProcessState, operation: Operation, name: string): void {
  if (allowed[state.kind][operation]) return
  const gone = state.kind === 'deleted' || (operation === 'kill' && hasExited(state))
  if (gone) throw new RuntimeError('NOT_FOUND', `${operation} of ${name}: the process has finished`)
  const why = hasExited(state) ? 'it has exited' : `not possible while it is ${statusOf[state.kind]}`
  throw new RuntimeError('FAILED_PRECONDITION', `${operation} of ${name}: ${why}`)
}
