/** Log fields as a person reads them at the end of a console line: " (container=abc pid=7)". */
import { explain } from '#shared/errors.ts'
import type { LogFields } from '#shared/log.ts'

/** Longest text of one field. */
const FIELD_LENGTH_MAX = 500

export function formatFields(fields: LogFields): string {
  const parts = Object.entries(fields).map(([name, value]) => `${name}=${formatValue(value)}`)
  return parts.length === 0 ? '' : ` (${parts.join(' ')})`
}

function formatValue(value: unknown): string {
  const text = value instanceof Error ? explain(value) : typeof value === 'string' ? value : (JSON.stringify(value) ?? 'undefined')
  // A console is one line per record.
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u001f\u007f]+/g, ' ').slice(0, FIELD_LENGTH_MAX)
}
