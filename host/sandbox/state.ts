/**
 * The life of a sandbox.
 *
 *   created ──start──► starting ──ready──► ready ──stop──► stopping ──ended──► stopped ──forget──► gone
 *      │                  │                  │                                    ▲
 *      │                  └──fail──► gone    └───────────────died─────────────────┤
 *      └──────────────────────────stop────────────────────────────────────────────┘
 *   adopting ─► created, ready, stopped or gone
 *
 * created   Create was answered: the record exists, nothing runs.
 * starting  Start is on its way; its failure, or a Stop meanwhile, undoes all and leaves no record, because
 *           containerd 2.1 calls nothing more after a failed Start. Only what resists being undone keeps the record,
 *           as stopped, for reconciliation to try again.
 * ready     The agent said Ready: containerd may dial it.
 * stopping  Stop or Shutdown was asked and the guest is being ended.
 * stopped   Nothing runs. What it owned is given back at once, what resists at the next Stop or Shutdown; Wait and
 *           Status answer from the record until Shutdown.
 * gone      Forgotten.
 * adopting  Found in the ledger by a fresh sandboxer, which looks whether it lives before it serves anyone.
 */

export interface Exit {
  /** What Wait answers: 0 after a Stop, 137 when the sandbox died or was killed */
  readonly status: number
  readonly atMs: number
  readonly reason: string
}

export interface Created {
  readonly kind: 'created'
}

export interface Starting {
  readonly kind: 'starting'
  readonly sinceMs: number
  /** Ends the attempt; the Start call answers the reason */
  readonly cancel: (reason: Error) => void
}

export interface Ready<R> {
  readonly kind: 'ready'
  readonly readyAtMs: number
  readonly running: R
}

export interface Stopping<R> {
  readonly kind: 'stopping'
  readonly running: R
}

export interface Stopped {
  readonly kind: 'stopped'
  readonly exit: Exit
}

export interface Gone {
  readonly kind: 'gone'
}

export interface Adopting {
  readonly kind: 'adopting'
}

/** `R` is what stands for the running guest. */
export type SandboxState<R> = Created | Starting | Ready<R> | Stopping<R> | Stopped | Gone | Adopting
export type StateKind = SandboxState<never>['kind']

const edges = {
  created: ['starting', 'stopped'],
  starting: ['ready', 'gone', 'stopped'],
  ready: ['stopping', 'stopped'],
  stopping: ['stopped'],
  stopped: ['gone'],
  gone: [],
  adopting: ['created', 'ready', 'stopped', 'gone'],
} as const satisfies Record<StateKind, readonly StateKind[]>

export const mayBecome = (from: StateKind, to: StateKind): boolean => edges[from].some((kind) => kind === to)

/** Operations that only make sense in some states. Create, Status, Wait, Stop and Shutdown are answered in all. */
export type Operation = 'start' | 'dial' | 'prepare'

const allowed = {
  start: ['created'],
  dial: ['ready', 'stopping'],
  prepare: ['ready'],
} as const satisfies Record<Operation, readonly StateKind[]>

export const allows = (operation: Operation, state: StateKind): boolean => allowed[operation].some((kind) => kind === state)

/** The words of containerd's sandbox status. */
export const containerdState = (state: StateKind): 'SANDBOX_READY' | 'SANDBOX_NOTREADY' =>
  state === 'ready' ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY'
