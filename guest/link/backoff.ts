import { setTimeout as delay } from 'node:timers/promises'

/** Waiting between attempts: longer each time up to a limit, and from the start again after a success. */
export class Backoff {
  readonly #firstMs: number
  readonly #maxMs: number
  #nextMs: number

  constructor(firstMs: number, maxMs: number) {
    this.#firstMs = firstMs
    this.#maxMs = maxMs
    this.#nextMs = firstMs
  }

  reset(): void {
    this.#nextMs = this.#firstMs
  }

  async wait(signal?: AbortSignal): Promise<void> {
    const ms = this.#nextMs
    this.#nextMs = Math.min(ms * 2, this.#maxMs)
    await delay(ms, undefined, signal === undefined ? {} : { signal })
  }
}
