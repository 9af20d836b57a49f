/** A guest's log records in the sandboxer's log, at a rate that leaves room for everybody else's. */
import { LOG_FIELDS_LENGTH_MAX, LOG_MESSAGE_LENGTH_MAX } from '#shared/link-limits.ts'
import { logLevels, type Log, type LogLevel } from '#shared/log.ts'

/** Records per second a guest may log for long, and at once. */
const RECORDS_PER_SECOND = 100
const BURST_RECORDS = 1000

export interface GuestRecord {
  readonly realtimeNanos: string
  readonly level: string
  readonly message: string
  readonly fields: string
}

export class GuestLog {
  readonly #log: Log
  #tokens = BURST_RECORDS
  #filledAtMs = performance.now()
  readonly #onSuppressed: (() => void) | undefined
  #suppressed = 0

  constructor(log: Log, onSuppressed?: () => void) {
    this.#log = log
    this.#onSuppressed = onSuppressed
  }

  write(records: readonly GuestRecord[], dropped: string): void {
    // A line as well: it takes its turn among the records.
    if (dropped !== '0' && this.#admit()) this.#log.warn('the guest dropped log records', { guest: true, dropped })
    for (const record of records) {
      if (!this.#admit()) continue
      const guestTime = new Date(Number(BigInt(record.realtimeNanos) / 1_000_000n))
      this.#log[level(record.level)](record.message.slice(0, LOG_MESSAGE_LENGTH_MAX), {
        guest: true,
        ...(Number.isNaN(guestTime.getTime()) ? {} : { guestTime: guestTime.toISOString() }),
        ...(record.fields === '' ? {} : { guestFields: fields(record.fields) }),
      })
    }
  }

  close(): void {
    this.#confess()
  }

  /** Whether one more line may be written; those that may not are counted. */
  #admit(): boolean {
    if (!this.#take()) {
      this.#suppressed++
      this.#onSuppressed?.()
      return false
    }
    this.#confess()
    return true
  }

  #confess(): void {
    if (this.#suppressed === 0) return
    this.#log.warn('log records of the guest were suppressed', { guest: true, suppressed: this.#suppressed })
    this.#suppressed = 0
  }

  /** A token bucket. */
  #take(): boolean {
    const now = performance.now()
    this.#tokens = Math.min(BURST_RECORDS, this.#tokens + ((now - this.#filledAtMs) / 1000) * RECORDS_PER_SECOND)
    this.#filledAtMs = now
    if (this.#tokens < 1) return false
    this.#tokens--
    return true
  }
}

const level = (word: string): LogLevel => logLevels.find((known) => known === word) ?? 'info'

/** Kept apart from our own fields, so that a guest cannot pass for another. */
function fields(text: string): unknown {
  if (text.length > LOG_FIELDS_LENGTH_MAX) return `${text.slice(0, LOG_FIELDS_LENGTH_MAX)}…`
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
