/**
 * The one error type that crosses a boundary of ours. Its code is the canonical status code that gRPC and ttrpc
 * share (google.rpc.Code), so an edge maps it to a wire status without judgement.
 */

/** google.rpc.Code, by name. */
export const statusCodes = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const

export type StatusName = keyof typeof statusCodes

const names = Object.keys(statusCodes).filter((name): name is StatusName => name in statusCodes)
const statusNames = new Map<number, StatusName>(names.map((name) => [statusCodes[name], name]))

/** The name of a numeric status; numbers we do not know read as UNKNOWN. */
export function statusName(code: number): StatusName {
  return statusNames.get(code) ?? 'UNKNOWN'
}

/** A google.protobuf.Any that travels with an error: google.rpc.Status.details. */
export interface ErrorDetail {
  readonly type_url: string
  readonly value: Uint8Array
}

/**
 * A failure with a stable code. The message names what was asked, with its values, and what to do; `cause` keeps
 * the error below it.
 */
export class RuntimeError extends Error {
  override readonly name = 'RuntimeError'
  readonly code: StatusName
  readonly details: readonly ErrorDetail[]

  constructor(code: StatusName, message: string, options?: { cause?: unknown; details?: readonly ErrorDetail[] }) {
    super(message, options)
    this.code = code
    this.details = options?.details ?? []
  }
}

/** True for a RuntimeError with this code. */
export function hasCode(error: unknown, code: StatusName): boolean {
  return error instanceof RuntimeError && error.code === code
}

/** Any thrown value as a RuntimeError: ours as it is, an abort as CANCELLED or DEADLINE_EXCEEDED, the rest as INTERNAL. */
export function asRuntimeError(error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error
  if (error instanceof Error) {
    if (error.name === 'TimeoutError') return new RuntimeError('DEADLINE_EXCEEDED', error.message, { cause: error })
    if (error.name === 'AbortError') return new RuntimeError('CANCELLED', error.message, { cause: error })
    return new RuntimeError('INTERNAL', error.message, { cause: error })
  }
  return new RuntimeError('INTERNAL', textOf(error))
}

/** Of a thrown value that is no error, in one line. It may have no text: no prototype, a circle, a `toString` that throws. */
function textOf(thrown: unknown): string {
  if (typeof thrown !== 'object' || thrown === null) return String(thrown)
  try {
    return JSON.stringify(thrown)
  } catch {
    return Object.prototype.toString.call(thrown)
  }
}

/** The message of an error and of every cause below it that says more, outermost first. */
export function explain(error: unknown): string {
  const parts: string[] = []
  for (let at: unknown = error, depth = 0; at !== undefined && depth < 8; depth++) {
    const text = at instanceof Error ? at.message : textOf(at)
    if (text !== '' && !parts.some((part) => part.includes(text))) parts.push(text)
    at = at instanceof Error ? at.cause : undefined
  }
  return parts.join(': ')
}

/** Makes the compiler prove that a switch over a union is complete. */
export function unreachable(value: never): never {
  throw new RuntimeError('INTERNAL', `a case was not handled: ${JSON.stringify(value)}`)
}
