/** Failed system calls, named as errno(3) names them. */

export interface OsErrorOptions {
  /** The error below it */
  readonly cause?: unknown
}

/** A failed system call. Its message says what was attempted, and ends with the kernel's word and `code`. */
export class OsError extends Error {
  override readonly name = 'OsError'
  /** errno name, such as "ECONNRESET". */
  readonly code: string
  /** The call that failed, such as "connect". */
  readonly syscall: string

  constructor(code: string, syscall: string, message: string, options?: OsErrorOptions) {
    super(message, options)
    this.code = code
    this.syscall = syscall
  }
}

/** True for a failure with this errno name, ours or Node's own. */
export function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

/** Runs one native call; a failure comes out as an OsError that also says what was attempted (`about`). */
export function attempt<T>(about: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw asOsError(about, error)
  }
}

function asOsError(about: string, error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof OsError) return error
  const code: unknown = Reflect.get(error, 'code')
  const syscall: unknown = Reflect.get(error, 'syscall')
  if (typeof code !== 'string' || typeof syscall !== 'string') return error
  return new OsError(code, syscall, `${about}: ${error.message} (${code})`, { cause: error })
}
