/** A share of a processor's time, with some saved up for a burst. */
import { RuntimeError } from '../errors.ts'

/** What may be saved up, in ms: an agent's greeting and a batch of its log at once take less. */
const SAVED_MS_MAX = 100

export class TimeShare {
  readonly #share: number
  #savedMs = SAVED_MS_MAX
  #atMs: number

  /**
   * @param share 1 is no limit
   * @param nowMs monotonic, here and below
   * @throws RuntimeError INVALID_ARGUMENT for a share that is not above 0 and up to 1
   */
  constructor(share: number, nowMs: number = performance.now()) {
    if (!(share > 0 && share <= 1)) throw new RuntimeError('INVALID_ARGUMENT', `a time share of ${share}; expected a number above 0 and up to 1`)
    this.#share = share
    this.#atMs = nowMs
  }

  /** `tookMs` up to `nowMs` were spent. Returns for how many ms nothing should be, from now on; 0 while there is some left. */
  spend(tookMs: number, nowMs: number): number {
    const idleMs = nowMs - tookMs - this.#atMs
    this.#atMs = nowMs
    this.#savedMs = Math.min(SAVED_MS_MAX, this.#savedMs + idleMs * this.#share) + tookMs * this.#share - tookMs
    return Math.max(0, -this.#savedMs / this.#share)
  }
}

/**
 * What this thread has had of processors. Not the clock: on a loaded machine most of that is other processes' time.
 *
 * Of a thread the kernel tells what it had at its last tick or wait, so that whatever takes less than a tick, 4 ms, would mostly
 * be told as nothing. Asked for the whole process it first counts up to now. Source: kernel, thread_group_cputime().
 */
export function threadCpuMs(): number {
  process.cpuUsage()
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}
