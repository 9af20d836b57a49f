/** The agent's log: short lines on the console at once, and batches to the sandboxer's log when it is there. */
import { formatFields } from './log-line.ts'
import { createLog, type Log, type LogLevel, type LogRecord } from '#shared/log.ts'

/** Records kept while the link is down; the oldest go first. */
export const LOG_RECORDS_MAX = 1000

/** Records sent in one call: the longest, of three bytes to a character, fit in a message of a guest's. */
export const LOG_BATCH_MAX = 10

/** How long records gather before they are sent. */
const LOG_BATCH_MS = 200

export type SendLog = (records: readonly LogRecord[], dropped: number) => Promise<void>

export class AgentLog {
  readonly log: Log
  level: LogLevel
  readonly #records: LogRecord[] = []
  #dropped = 0
  #send: SendLog | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(level: LogLevel, write: (line: string) => void) {
    this.level = level
    this.log = createLog((record) => {
      write(`${record.level === 'info' ? '' : `${record.level}: `}${record.message}${formatFields(record.fields)}\n`)
      this.#keep(record)
    }, () => this.level)
  }

  /** From now on records go to the sandboxer; what was logged before goes first. */
  forwardTo(send: SendLog): void {
    this.#send = send
    this.#schedule()
  }

  #keep(record: LogRecord): void {
    this.#records.push(record)
    if (this.#records.length > LOG_RECORDS_MAX) {
      this.#records.shift()
      this.#dropped++
    }
    this.#schedule()
  }

  #schedule(): void {
    if (this.#send === undefined || this.#timer !== undefined || this.#records.length === 0) return
    this.#timer = setTimeout(() => void this.#flush(), this.#records.length < LOG_BATCH_MAX ? LOG_BATCH_MS : 0)
    this.#timer.unref()
  }

  /** A batch that does not get through is lost: the console has had it. */
  async #flush(): Promise<void> {
    const batch = this.#records.splice(0, LOG_BATCH_MAX)
    const dropped = this.#dropped
    this.#dropped = 0
    try {
      await this.#send?.(batch, dropped)
    } catch {
      this.#dropped += batch.length + dropped
    }
    this.#timer = undefined
    this.#schedule()
  }
}
