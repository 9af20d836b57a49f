/**
 * What a sandboxer tells of its sandboxes to whoever counts (host/metrics). Contracts only. Every word is one of ours: no id, and
 * nothing a guest wrote but the names of its boot marks in a start's spans.
 */
import type { Span } from '#shared/trace/span.ts'
import type { Culprit } from './backend.ts'
import type { Finding } from './reconcile.ts'
import type { StartStep } from './start.ts'

/** "warm": on a VM that had booted before its pod. */
export type StartKind = 'cold' | 'warm'

/**
 * answered  in time
 * late      the next beat came first; it is not asked again meanwhile
 * slow      silent for limits.busy_ms with a VMM at work: it is ended
 * dead      silent and idle, or held: it is ended
 */
export const heartbeats = ['answered', 'late', 'slow', 'dead'] as const
export type Heartbeat = (typeof heartbeats)[number]

/**
 * claimed      a pod runs on it
 * boot-failed  it never said Hello
 * died         one of its processes ended while it waited
 * mute         it dropped its Hello
 * unusable     taken by a pod, which then started cold
 */
export const warmFates = ['claimed', 'boot-failed', 'died', 'mute', 'unusable'] as const
export type WarmFate = (typeof warmFates)[number]

/**
 * adopted     its guest lives, and is ours now
 * lost        its guest was dead, frozen or could not be driven
 * undone      its start was cut off
 * unreadable  its record could not be used; it was ended
 * stray       no record named it; it was cleared away
 */
export const recoveries = ['adopted', 'lost', 'undone', 'unreadable', 'stray'] as const
export type Recovery = (typeof recoveries)[number]

/** `backend`: the name of its table in the configuration. Nothing here may throw. */
export interface Observer {
  /** `spans`: of the start, as its trace has them */
  started(backend: string, kind: StartKind, spans: readonly Span[]): void
  /** "other": before the first step or after the last */
  startFailed(backend: string, step: StartStep | 'other' | 'cancelled'): void
  /** A step of a container's, after its sandbox's start */
  containerSpan(backend: string, span: Span): void
  died(backend: string, of: Culprit, outOfMemory: boolean): void
  heartbeat(backend: string, heard: Heartbeat): void
  warmBooted(backend: string, ms: number): void
  warmEnded(backend: string, fate: WarmFate): void
  recovered(what: Recovery): void
  reconciled(what: Finding['kind']): void
}

/** For whom nobody counts. */
export const unobserved: Observer = {
  started() {},
  startFailed() {},
  containerSpan() {},
  died() {},
  heartbeat() {},
  warmBooted() {},
  warmEnded() {},
  recovered() {},
  reconciled() {},
}
