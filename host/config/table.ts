/**
 * Checks a table of the configuration against a schema. One complaint per mistake, each naming where, the value and
 * what was expected, because an operator reads nothing else.
 */
import { z } from 'zod'
import { RuntimeError, unreachable } from '#shared/errors.ts'

/** Longest value quoted back in an error, in characters. */
const SHOWN_LENGTH_MAX = 80

/**
 * Defaults filled in. `at` says where the table is ("/etc/kuasar/config.toml: backends.kuasar-qemu", or
 * "/etc/kuasar/config.toml:" for the whole file).
 * Errors: INVALID_ARGUMENT, every mistake on a line of its own.
 */
export function parseTable<S extends z.ZodType>(schema: S, raw: unknown, at: string): z.output<S> {
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const lines = result.error.issues.flatMap((issue) => complaints(issue, raw, schema, at))
  throw new RuntimeError('INVALID_ARGUMENT', lines.join('\n'))
}

function complaints(issue: z.core.$ZodIssue, raw: unknown, schema: z.ZodType, at: string): string[] {
  const path = issue.path.join('.')
  const where = path === '' ? at.replace(/:$/, '') : at.endsWith(':') ? `${at} ${path}` : `${at}.${path}`
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, issue.path)
    return issue.keys.map((key) => {
      const near = nearest(key, known)
      const hint = near === undefined ? `known keys: ${known.join(', ')}` : `did you mean ${near}?`
      return `${where}: unknown key ${key} = ${shown(valueAt(raw, [...issue.path, key]))}; ${hint}`
    })
  }
  const value = valueAt(raw, issue.path)
  return [`${where}: ${shown(value)} is not accepted: expected ${expectation(issue)}`]
}

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return issue.expected === 'int' ? 'a whole number' : `a ${issue.expected === 'record' ? 'table' : issue.expected}`
    case 'invalid_key':
      return issue.issues[0]?.message ?? issue.message
    case 'invalid_value':
      return `one of ${issue.values.map((value) => JSON.stringify(value)).join(', ')}`
    case 'too_small':
      return `${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}${unitOf(issue.origin)}`
    case 'too_big':
      return `${issue.inclusive === false ? 'less than' : 'at most'} ${issue.maximum}${unitOf(issue.origin)}`
    case 'custom':
    case 'invalid_element':
    case 'invalid_format':
    case 'invalid_union':
    case 'not_multiple_of':
    case 'unrecognized_keys':
      return issue.message
    default:
      return unreachable(issue)
  }
}

const unitOf = (origin: string): string =>
  origin === 'string' ? ' characters' : origin === 'array' || origin === 'set' ? ' items' : ''

function shown(value: unknown): string {
  if (value === undefined) return 'a missing value'
  const text = JSON.stringify(value, (_, inner: unknown) => (typeof inner === 'bigint' ? inner.toString() : inner))
  return text.length > SHOWN_LENGTH_MAX ? `${text.slice(0, SHOWN_LENGTH_MAX)}…` : text
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  let at: unknown = raw
  for (const key of path) at = typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined
  return at
}

/** The keys an object schema knows, looked up along a path through defaults and optionals. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  let at: unknown = bare(schema)
  for (const key of path) at = at instanceof z.ZodObject ? bare(Reflect.get(at.shape, key)) : undefined
  return at instanceof z.ZodObject ? Object.keys(at.shape) : []
}

function bare(schema: unknown): unknown {
  let at = schema
  while (at instanceof z.ZodDefault || at instanceof z.ZodPrefault || at instanceof z.ZodOptional) at = at.unwrap()
  return at
}

/** The known key within a third of its length of `key`, if there is one. */
export function nearest(key: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(key.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(key, candidate)
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance]
  }
  return best
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, substituted))
    }
    row = next
  }
  return row[b.length] ?? 0
}
