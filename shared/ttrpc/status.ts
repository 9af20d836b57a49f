/** Errors here ↔ google.rpc.Status on the wire. */
import { asRuntimeError, explain, RuntimeError, statusCodes, statusName } from '../errors.ts'
import { encodeStatus, type Status } from './envelope.ts'
import type { Limits } from './limits.ts'

/** What the peer's status says, as an error; undefined for OK. */
export function statusError(status: Status | undefined): RuntimeError | undefined {
  if (status === undefined || status.code === 0) return undefined
  return new RuntimeError(statusName(status.code), status.message, { details: status.details })
}

/** Any thrown value as the error a peer is told: ours keeps its code, and nothing that was thrown reads as OK. */
export function thrownError(thrown: unknown): RuntimeError {
  let error: RuntimeError
  try {
    error = asRuntimeError(thrown)
  } catch {
    error = new RuntimeError('UNKNOWN', 'what was thrown is not an error and has no text')
  }
  return error.code === 'OK' ? new RuntimeError('UNKNOWN', error.message, { cause: error }) : error
}

/**
 * A response that carries an error. The message includes the causes below it, cut to `statusMessageBytesMax`; details
 * that do not fit a frame are left out.
 */
export function encodeError(error: RuntimeError, limits: Limits): Buffer {
  const text = Buffer.from(explain(error))
  // A cut inside a character decodes to U+FFFD, which may be longer than what was cut off: hence the slack.
  const message = text.length <= limits.statusMessageBytesMax
    ? text.toString()
    : `${text.toString('utf8', 0, Math.max(0, limits.statusMessageBytesMax - 8))}…`
  const code = statusCodes[error.code]
  const status = encodeStatus({ code, message, details: [...error.details] })
  if (status.length <= limits.sentFrameBytesMax) return status
  return encodeStatus({ code, message: '', details: [] })
}

/** The error of a call whose caller gave up: a deadline stays one, the rest is CANCELLED. */
export function abortError(path: string, reason: unknown): RuntimeError {
  if (reason instanceof RuntimeError) return reason
  const timedOut = reason instanceof Error && reason.name === 'TimeoutError'
  return timedOut
    ? new RuntimeError('DEADLINE_EXCEEDED', `${path}: the caller's time ran out`, { cause: reason })
    : new RuntimeError('CANCELLED', `${path}: cancelled by the caller`, { cause: reason })
}
