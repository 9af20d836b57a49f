/** One thing at a time, in the order asked: what keeps the parts of one sandbox from acting on it at once. */
import { RuntimeError } from './errors.ts'

/** Far above what one pod's callers do; beyond it somebody retries in a loop. */
const WAITING_MAX = 256

export class Mailbox {
  readonly #name: string
  #tail: Promise<unknown> = Promise.resolve()
  #waiting = 0

  /** @param name for the error of a full mailbox */
  constructor(name: string) {
    this.#name = name
  }

  /** Runs `task` after everything posted before it, whether that failed or not. Errors: RESOURCE_EXHAUSTED when full. */
  run<T>(task: () => Promise<T> | T): Promise<T> {
    if (this.#waiting >= WAITING_MAX)
      return Promise.reject(new RuntimeError('RESOURCE_EXHAUSTED', `${this.#name}: ${this.#waiting} calls wait already, which is the limit`))
    this.#waiting++
    const turn = this.#tail.then(async () => {
      this.#waiting--
      return task()
    })
    this.#tail = turn.catch(() => {})
    return turn
  }
}
