/**
 * The host's end of a warm VM's link. Its agent's Hello waits here for the sandbox that will answer it; from then on every
 * call is that sandbox's. A guest that calls again before gives up the call it made.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { PreparedContainer } from '../container/contract.ts'
import type { EventEnvelope } from '../containerd/contract.ts'
import type { Claimed, GuestPeer, Hello, Ready, Welcome } from './guest.ts'
import { negotiate } from './handshake.ts'
import { nowMs } from './trace.ts'

interface Waiting {
  readonly hello: Hello
  readonly signal: AbortSignal
  resolve(welcome: Welcome | Promise<Welcome>): void
  reject(error: unknown): void
}

export class WarmPeer implements GuestPeer {
  readonly #id: string
  readonly #greeted = Promise.withResolvers<void>()
  #owner: GuestPeer | undefined
  #waiting: Waiting | undefined

  constructor(id: string) {
    this.#id = id
    this.#greeted.promise.catch(() => {})
  }

  get id(): string {
    return this.#owner?.id ?? this.#id
  }

  /** Resolves at the first Hello. Rejects with FAILED_PRECONDITION when that can never be a sandbox's. */
  get greeted(): Promise<void> {
    return this.#greeted.promise
  }

  /** True while a Hello waits. A guest whose link has just broken will say it again. */
  get waits(): boolean {
    return this.#waiting !== undefined
  }

  /** The sandbox answers what waits, and all that comes. */
  handTo(owner: GuestPeer): void {
    this.#owner = owner
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.resolve(this.#ask(owner, waiting.hello, waiting.signal))
  }

  hello(hello: Hello, signal: AbortSignal): Welcome | Promise<Welcome> {
    if (this.#owner !== undefined) return this.#ask(this.#owner, hello, signal)
    try {
      negotiate(hello.protocolVersion)
      if (hello.resumed) throw new RuntimeError('FAILED_PRECONDITION', 'a VM without a pod says that it has had one')
    } catch (error) {
      this.#greeted.reject(error)
      throw error
    }
    this.#waiting?.reject(new RuntimeError('ABORTED', 'a newer Hello has come'))
    const { promise, resolve, reject } = Promise.withResolvers<Welcome>()
    const waiting = { hello, signal, resolve, reject }
    this.#waiting = waiting
    const onAbort = () => {
      if (this.#waiting === waiting) this.#waiting = undefined
      reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    this.#greeted.resolve()
    return promise
  }

  ready(ready: Ready): void {
    this.#claimed.ready(ready)
  }

  async prepare(containerId: string, signal: AbortSignal): Promise<PreparedContainer> {
    return this.#claimed.prepare(containerId, signal)
  }

  async release(containerId: string): Promise<void> {
    return this.#claimed.release(containerId)
  }

  created(containerId: string, crun: Claimed): void {
    this.#claimed.created(containerId, crun)
  }

  async publish(sequence: bigint, containerId: string, event: EventEnvelope, signal: AbortSignal): Promise<void> {
    return this.#claimed.publish(sequence, containerId, event, signal)
  }

  get #claimed(): GuestPeer {
    if (this.#owner === undefined) throw new RuntimeError('FAILED_PRECONDITION', `the warm VM ${this.#id} has no pod yet`)
    return this.#owner
  }

  /** However late a Hello comes, the boot before it was not for this pod. */
  async #ask(owner: GuestPeer, hello: Hello, signal: AbortSignal): Promise<Welcome> {
    return owner.hello({ ...hello, warm: !hello.resumed, arrivedAtMs: nowMs() }, signal)
  }
}
