/** Timers and the wire's relative timeouts. */

/** `setTimeout` fires at once for anything above. */
const timerMsMax = 2 ** 31 - 1

/** The largest int64 a double holds below 2⁶³, in nanoseconds: 292 years. */
const timeoutNanoMax = 2 ** 63 - 2048

/** A timer of any length that calls back once, unless it is cancelled. */
export class Deadline {
  readonly #expire: () => void
  #remainingMs: number
  #timer: NodeJS.Timeout

  constructor(delayMs: number, expire: () => void) {
    this.#expire = expire
    this.#remainingMs = delayMs
    this.#timer = this.#arm()
  }

  cancel(): void {
    clearTimeout(this.#timer)
  }

  #arm(): NodeJS.Timeout {
    // Node cuts fractions off, and would fire before the time.
    const stepMs = Math.min(Math.ceil(this.#remainingMs), timerMsMax)
    return setTimeout(() => {
      this.#remainingMs -= stepMs
      if (this.#remainingMs > 0) this.#timer = this.#arm()
      else this.#expire()
    }, stepMs)
  }
}

/** timeout_nano of a positive timeout: at least 1, for 0 would mean none. */
export function timeoutNanoOf(timeoutMs: number): number {
  return Math.max(1, Math.min(Math.round(timeoutMs * 1e6), timeoutNanoMax))
}
