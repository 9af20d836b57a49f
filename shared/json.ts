/**
 * JSON that survives a round trip. OCI specs hold 64-bit numbers (an unlimited rlimit is 18446744073709551615) that a
 * double would round to something the runtime refuses; they are kept as they were written.
 */
import { RuntimeError, explain } from './errors.ts'

declare global {
  // Of ECMAScript 2026 (proposal-json-parse-with-source); in V8, not yet in TypeScript's library.
  interface JSON {
    parse(text: string, reviver: (this: unknown, key: string, value: unknown, context: { readonly source?: string }) => unknown): unknown
    rawJSON(text: string): object
  }
}

/** Errors: INVALID_ARGUMENT, saying what `at` is, for anything that is not JSON or nests too deep for the stack. */
export function parseJson(text: string, at: string): unknown {
  try {
    return JSON.parse(text, (_key, value, { source }) =>
      typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value) && source !== undefined
        ? JSON.rawJSON(source)
        : value,
    )
  } catch (error) {
    const reason = error instanceof RangeError ? 'it nests too deep' : explain(error)
    throw new RuntimeError('INVALID_ARGUMENT', `${at} is not JSON that can be read: ${reason}`, { cause: error })
  }
}

/** The other half of parseJson: numbers it kept come out digit for digit. */
export const formatJson = (value: unknown): string => JSON.stringify(value)
