/** The guest's side of a start: it says Hello, is told what it needs, applies it, and says Ready. */
import { RuntimeError } from '#shared/errors.ts'
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, type Hello, type Ready } from './guest.ts'
import { guestSpans, nowMs, type Trace } from './trace.ts'

/** Why a guest that was ready and says the Hello of a fresh boot is no use. */
export const STARTED_ANEW = 'the guest started anew by itself; its containers are gone'

export class Handshake {
  #ready = Promise.withResolvers<void>()
  readonly #trace: Trace
  readonly #startedMs = nowMs()
  #heard: 'nothing' | 'hello' | 'ready' = 'nothing'
  #helloMs = 0
  #helloSentAt = 0n

  constructor(trace: Trace) {
    this.#trace = trace
  }

  /** Resolves when the guest has said Ready. */
  get ready(): Promise<void> {
    return this.#ready.promise
  }

  /** That guest has come to nothing: another will say Hello. */
  again(): void {
    this.#ready = Promise.withResolvers<void>()
    this.#heard = 'nothing'
  }

  /** What the start waits for, as the error of a timeout names it. */
  get waitingFor(): 'hello' | 'ready' {
    return this.#heard === 'nothing' ? 'hello' : 'ready'
  }

  /**
   * Errors: FAILED_PRECONDITION for a guest that says it was configured, and not by this start; and for one that was not,
   * when this start's guest is ready.
   */
  hello(hello: Hello): void {
    if (!hello.resumed && this.#heard === 'ready') throw new RuntimeError('FAILED_PRECONDITION', STARTED_ANEW)
    if (hello.resumed && this.#heard === 'nothing') throw new RuntimeError('FAILED_PRECONDITION', 'a guest that was configured before this start is not expected')
    this.#helloMs = hello.arrivedAtMs
    if (this.#heard !== 'nothing') return
    this.#heard = 'hello'
    this.#helloSentAt = hello.boottimeNanos
    if (hello.warm === true) return
    for (const span of guestSpans(hello.boot, hello.boottimeNanos, hello.arrivedAtMs, this.#startedMs, true)) this.#trace.add(span)
  }

  /** Errors: FAILED_PRECONDITION before a Hello. */
  said(ready: Ready): void {
    if (this.#heard === 'nothing') throw new RuntimeError('FAILED_PRECONDITION', 'Ready came before Hello')
    if (this.#heard === 'ready') return
    this.#heard = 'ready'
    this.#trace.add({ name: 'ready', startMs: this.#helloMs, endMs: ready.arrivedAtMs, source: 'sandboxer' })
    // An agent may name every mark of its boot again.
    const boot = ready.boot.filter(({ boottimeNanos }) => boottimeNanos > this.#helloSentAt)
    for (const span of guestSpans(boot, ready.boottimeNanos, ready.arrivedAtMs, this.#helloMs, false)) this.#trace.add(span)
    this.#ready.resolve()
  }
}

/** The version both sides will speak. Errors: FAILED_PRECONDITION when there is none. */
export function negotiate(agents: number): number {
  if (agents < PROTOCOL_VERSION_MIN)
    throw new RuntimeError(
      'FAILED_PRECONDITION',
      `the guest's agent speaks kuasar.host version ${agents}; this sandboxer speaks ${PROTOCOL_VERSION_MIN} to` +
        ` ${PROTOCOL_VERSION}: use a guest image built with this sandboxer`,
    )
  return Math.min(agents, PROTOCOL_VERSION)
}
