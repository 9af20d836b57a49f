/** What an owner of connections may set, and what it is told. */
import type { RuntimeError, StatusName } from '../errors.ts'
import type { CallKind } from './method.ts'
import type { LimitChanges } from './limits.ts'
import type { TimeShare } from './time-share.ts'

/** One finished call. */
export interface CallReport {
  /** `/package.Service/Method` */
  readonly path: string
  readonly kind: CallKind
  readonly code: StatusName
  /** The error's message, with the causes below it; empty for OK. */
  readonly message: string
  readonly durationMs: number
}

export interface ConnectionOptions extends LimitChanges {
  /**
   * What may go into taking what a peer sends (decoding it and the first, synchronous part of handlers); a connection
   * that is beyond it is not read for a while. It is shared with whatever else was given the same. Without it there is no
   * limit.
   */
  readonly readShare?: TimeShare | undefined
  /** Told of every call when it is over. */
  readonly onCall?: ((report: CallReport) => void) | undefined
}

export interface ServerOptions extends ConnectionOptions {
  /** Told of what no caller hears: a connection that broke, and failures of a handler after its call was over. */
  readonly onError?: ((error: Error) => void) | undefined
  /** Told of every request that became no call: malformed, for a method that is not served, beyond a limit. */
  readonly onRefused?: ((error: RuntimeError) => void) | undefined
}

/** Calls a hook. A hook that throws is not this library's business, and must not end a connection. */
export function tell<T>(hook: ((value: T) => void) | undefined, value: T): void {
  try {
    hook?.(value)
  } catch {
    // The hook's owner has no one to hear of it but itself.
  }
}

/** The kind of a method. */
export function kindOf(method: { readonly requestStream: boolean; readonly responseStream: boolean }): CallKind {
  if (method.requestStream) return method.responseStream ? 'bidi' : 'client-stream'
  return method.responseStream ? 'server-stream' : 'unary'
}
