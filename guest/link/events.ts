/**
 * containerd's events on their way through the sandboxer: in order, numbered, repeated until taken. A sandboxer that
 * restarts gets what it missed, and drops by number what it had already handed on.
 *
 * Each call costs an emulated guest some milliseconds, and most execs are short: the events that say an exec begins wait
 * a moment for what comes after them, and travel with it.
 */
import { asRuntimeError, explain, type StatusName } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { TaskEvent, TaskEvents } from '../container/ports.ts'
import { Backoff } from './backoff.ts'

/** Events kept for a sandboxer that is away; the oldest go first. */
export const EVENTS_MAX = 4096

/** Events handed to `send` at once. */
export const EVENTS_AT_ONCE_MAX = 16

/** How long the beginning of an exec waits for its end. */
export const COMPANY_MS_MAX = 300

const RETRY_MS_FIRST = 50
const RETRY_MS_MAX = 2000

/** What is wrong with the event itself. Whatever else goes wrong may pass: the event is sent again until it is taken. */
const refusals: ReadonlySet<StatusName> = new Set(['INVALID_ARGUMENT', 'NOT_FOUND', 'FAILED_PRECONDITION', 'UNIMPLEMENTED'])

/** A refused event is dropped after so many attempts. */
const REFUSALS_MAX = 3

export interface NumberedEvent {
  readonly sequence: bigint
  readonly event: TaskEvent
}

interface Queued extends NumberedEvent {
  readonly done: () => void
}

export type SendEvents = (events: readonly NumberedEvent[]) => Promise<void>

export class EventQueue implements TaskEvents {
  readonly #send: SendEvents
  readonly #log: Log
  readonly #queue: Queued[] = []
  #sequence = 0n
  #dropped = 0
  /** How many at the head wait for nothing more. */
  #due = 0
  /** How many at the head are on their way. */
  #sending = 0
  #running = false
  #timer: NodeJS.Timeout | undefined

  /** `send` resolves when containerd has the events, and rejects when it may have only the first of them, or none. */
  constructor(send: SendEvents, log: Log) {
    this.#send = send
    this.#log = log
  }

  get dropped(): number {
    return this.#dropped
  }

  publish(event: TaskEvent): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#queue.push({ sequence: ++this.#sequence, event, done: resolve })
    if (this.#queue.length > EVENTS_MAX) this.#dropOldest()
    if (isBeginning(event)) this.#timer ??= setTimeout(() => this.#allDue(), COMPANY_MS_MAX)
    else this.#allDue()
    return promise
  }

  #dropOldest(): void {
    // Those at the head may be on their way at this moment; the one behind them is not.
    const [oldest] = this.#queue.splice(this.#sending, 1)
    if (this.#due > this.#sending) this.#due--
    oldest?.done()
    this.#dropped++
    this.#log.warn('an event was dropped: the sandboxer has been away too long', { dropped: this.#dropped })
  }

  #allDue(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#due = this.#queue.length
    void this.#run()
  }

  async #run(): Promise<void> {
    if (this.#running) return
    this.#running = true
    const backoff = new Backoff(RETRY_MS_FIRST, RETRY_MS_MAX)
    // So many go one by one, since one of them was refused.
    let alone = 0
    for (let attempts = 0; this.#due > 0;) {
      const events = this.#queue.slice(0, alone > 0 ? 1 : Math.min(this.#due, EVENTS_AT_ONCE_MAX))
      this.#sending = events.length
      try {
        await this.#send(events)
      } catch (error) {
        const { code } = asRuntimeError(error)
        const refused = refusals.has(code)
        if (refused && events.length > 1) {
          alone = events.length
          continue
        }
        if (!refused || ++attempts < REFUSALS_MAX) {
          await backoff.wait()
          continue
        }
        this.#log.warn('an event was refused and is dropped', { kind: events[0]?.event.kind, error: explain(error) })
      }
      attempts = 0
      backoff.reset()
      alone = Math.max(0, alone - 1)
      this.#sending = 0
      this.#due -= events.length
      for (const { done } of this.#queue.splice(0, events.length)) done()
    }
    this.#running = false
  }
}

/** Nobody acts on these, and the end of the exec is soon behind them. */
function isBeginning({ kind }: TaskEvent): boolean {
  return kind === 'exec-added' || kind === 'exec-started'
}
