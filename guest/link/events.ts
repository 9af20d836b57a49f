/**
 * containerd's events on their way through the sandboxer: in order, numbered, repeated until taken. A sandboxer that
 * restarts gets what it missed, and drops by number what it had already handed on.
 */
import { asRuntimeError, explain } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { TaskEvent, TaskEvents } from '../container/ports.ts'
import { Backoff } from './backoff.ts'

/** Events kept for a sandboxer that is away; the oldest go first. */
export const EVENTS_MAX = 4096

const RETRY_MS_FIRST = 50
const RETRY_MS_MAX = 2000

/** A refused event (not one lost with the link) is dropped after so many attempts. */
const REFUSALS_MAX = 3

interface Queued {
  readonly sequence: bigint
  readonly event: TaskEvent
  readonly done: () => void
}

export type SendEvent = (sequence: bigint, event: TaskEvent) => Promise<void>

export class EventQueue implements TaskEvents {
  readonly #send: SendEvent
  readonly #log: Log
  readonly #queue: Queued[] = []
  #sequence = 0n
  #dropped = 0
  #running = false

  /** `send` resolves when containerd has the event. */
  constructor(send: SendEvent, log: Log) {
    this.#send = send
    this.#log = log
  }

  get dropped(): number {
    return this.#dropped
  }

  publish(event: TaskEvent): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#queue.push({ sequence: ++this.#sequence, event, done: resolve })
    if (this.#queue.length > EVENTS_MAX) {
      // The head may be on its way at this moment; the one behind it is not.
      const [oldest] = this.#queue.splice(this.#running ? 1 : 0, 1)
      oldest?.done()
      this.#dropped++
      this.#log.warn('an event was dropped: the sandboxer has been away too long', { dropped: this.#dropped })
    }
    void this.#run()
    return promise
  }

  async #run(): Promise<void> {
    if (this.#running) return
    this.#running = true
    const backoff = new Backoff(RETRY_MS_FIRST, RETRY_MS_MAX)
    for (let head = this.#queue[0], refusals = 0; head !== undefined; head = this.#queue[0]) {
      try {
        await this.#send(head.sequence, head.event)
      } catch (error) {
        const { code } = asRuntimeError(error)
        const away = code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED' || code === 'CANCELLED'
        if (away || ++refusals < REFUSALS_MAX) {
          await backoff.wait()
          continue
        }
        this.#log.warn('an event was refused and is dropped', { kind: head.event.kind, error: explain(error) })
      }
      refusals = 0
      backoff.reset()
      this.#queue.shift()
      head.done()
    }
    this.#running = false
  }
}
