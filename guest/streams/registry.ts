/**
 * Where streams and processes meet. containerd opens a container's streams before it creates the task, without a
 * deadline, and opens them again under the same ids after a restart; so an unknown id waits, and a known one may be
 * asked for again at any time until its process is deleted. Where the process is not made after all, containerd leaves its
 * streams open: they are let go, or they would fill the registry.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { Input } from './input.ts'
import type { Output } from './output.ts'

/** Streams waiting for their process: three for each container and exec that a pod may have under way. */
export const WAITING_STREAMS_MAX = 4096

/** Longest stream id: an identifier and "-stdout". */
export const STREAM_ID_LENGTH_MAX = 128

export type Endpoint =
  | { readonly kind: 'output'; readonly output: Output }
  | { readonly kind: 'input'; readonly input: Input }

export class StreamRegistry {
  readonly #bound = new Map<string, Endpoint>()
  readonly #waiting = new Map<string, Set<(endpoint: Endpoint) => void>>()
  #waitingCount = 0

  /** How many streams wait for a process. */
  get waiting(): number {
    return this.#waitingCount
  }

  /** True while a process holds this id. */
  has(id: string): boolean {
    return this.#bound.has(id)
  }

  /** Gives the id's stream, waiting or to come, its process. Throws ALREADY_EXISTS when another process has it. */
  bind(id: string, endpoint: Endpoint): Disposable {
    if (this.#bound.has(id)) throw new RuntimeError('ALREADY_EXISTS', `the stream ${JSON.stringify(id)} already has a process`)
    this.#bound.set(id, endpoint)
    this.waiters(id)(endpoint)
    return {
      [Symbol.dispose]: () => {
        if (this.#bound.get(id) === endpoint) this.#bound.delete(id)
      },
    }
  }

  /** Those that wait for this id now: gives them an endpoint, which those who come later do not get. */
  waiters(id: string): (endpoint: Endpoint) => void {
    const waiting = [...(this.#waiting.get(id) ?? [])]
    return (endpoint) => {
      for (const resolve of waiting) resolve(endpoint)
    }
  }

  /** The process side of a stream, as soon as there is one. Throws what `signal` was aborted with. */
  async find(id: string, signal: AbortSignal): Promise<Endpoint> {
    signal.throwIfAborted()
    const endpoint = this.#bound.get(id)
    if (endpoint !== undefined) return endpoint
    if (this.#waitingCount >= WAITING_STREAMS_MAX) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${WAITING_STREAMS_MAX} streams already wait for a process`)
    }
    const { promise, resolve, reject } = Promise.withResolvers<Endpoint>()
    const give = () => reject(signal.reason)
    const waiting = this.#waiting.get(id) ?? new Set()
    waiting.add(resolve)
    this.#waiting.set(id, waiting)
    this.#waitingCount++
    signal.addEventListener('abort', give, { once: true })
    try {
      return await promise
    } finally {
      signal.removeEventListener('abort', give)
      waiting.delete(resolve)
      if (waiting.size === 0) this.#waiting.delete(id)
      this.#waitingCount--
    }
  }
}
