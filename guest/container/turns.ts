/** One piece of work at a time, in the order asked: the mailbox of one process. Others are never held up by it. */
import { RuntimeError } from '#shared/errors.ts'

/** More waiting operations than any caller of ours produces for one process. */
export const TURNS_WAITING_MAX = 64

export class Turns {
  readonly #name: string
  #tail: Promise<unknown> = Promise.resolve()
  #waiting = 0

  constructor(name: string) {
    this.#name = name
  }

  /** Runs `work` after all that was asked before it; a failure does not stop those behind. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#waiting >= TURNS_WAITING_MAX) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${this.#name} has ${TURNS_WAITING_MAX} operations waiting; try again`)
    }
    return await this.runAlways(work)
  }

  /** The same without the limit: for what the kernel reports, which cannot be refused. */
  async runAlways<T>(work: () => Promise<T>): Promise<T> {
    this.#waiting++
    const mine = this.#tail.then(work)
    this.#tail = mine.catch(() => {})
    try {
      return await mine
    } finally {
      this.#waiting--
    }
  }
}
