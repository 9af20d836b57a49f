/** Structured logging: one JSON object per line, cheap when the level is off. */

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof logLevels)[number]

export type LogFields = Readonly<Record<string, unknown>>

export interface LogRecord {
  readonly timeMs: number
  readonly level: LogLevel
  readonly message: string
  readonly fields: LogFields
}

export interface Log {
  trace(message: string, fields?: LogFields): void
  debug(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  error(message: string, fields?: LogFields): void
  /** A log whose records all carry these fields. */
  with(fields: LogFields): Log
}

/** A log that hands records at or above `level` to `sink`. `level` is read per record, so it may change. */
export function createLog(sink: (record: LogRecord) => void, level: () => LogLevel, bound: LogFields = {}): Log {
  const emit = (at: LogLevel) => (message: string, fields?: LogFields) => {
    if (logLevels.indexOf(at) < logLevels.indexOf(level())) return
    sink({ timeMs: Date.now(), level: at, message, fields: fields === undefined ? bound : { ...bound, ...fields } })
  }
  return {
    trace: emit('trace'),
    debug: emit('debug'),
    info: emit('info'),
    warn: emit('warn'),
    error: emit('error'),
    with: (fields) => createLog(sink, level, { ...bound, ...fields }),
  }
}

/** A record as one line of JSON; errors among the fields become their message chain. */
export function formatRecord(record: LogRecord): string {
  const fields: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(record.fields)) fields[key] = value instanceof Error ? value.message : value
  return JSON.stringify({ time: new Date(record.timeMs).toISOString(), level: record.level, msg: record.message, ...fields })
}

/** Drops everything. */
export const silentLog: Log = createLog(() => {}, () => 'error')
