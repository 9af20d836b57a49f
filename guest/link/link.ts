/**
 * The agent's connection to its sandboxer. The agent dials, says hello, and dials again whenever the connection ends:
 * a sandboxer that is restarted finds its guests coming back by themselves, and nothing in the guest waits for it
 * meanwhile but what needs an answer of the host's.
 *
 *   dial ──► Hello ──► configure (once) ──► Ready (once) ──► up ──► lost ──► back off ──► dial
 */
import type { Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { explain, hasCode, RuntimeError } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { GuestRpc } from '../rpc.ts'
import { Backoff } from './backoff.ts'

export type HostCalls = Calls<ServiceTypesOf<'host'>>
export type Hello = Parameters<HostCalls['Hello']>[0]
export type HelloAnswer = Awaited<ReturnType<HostCalls['Hello']>>

/** A sandboxer that has just started is busy adopting; one that is being replaced is away for seconds. */
const DIAL_WAIT_MS_FIRST = 20
const DIAL_WAIT_MS_MAX = 2000

/** How long a resumed Hello may take. Those before have no limit: a warm VM waits for its pod. */
const RESUMED_HELLO_MS_MAX = 30_000

export interface LinkOptions {
  readonly rpc: GuestRpc
  readonly log: Log
  readonly writeBytesMax: number
  dial(): Promise<Socket>
  /** `resumed`: an answer has configured this boot. */
  hello(resumed: boolean): Hello
  /** The first answer of this boot: configures the guest and listens. A failure ends the agent. */
  configure(answer: HelloAnswer): Promise<void>
  /** A link that was up is so no more. */
  lost(): void
  /** Says Ready, once per boot. */
  ready(calls: HostCalls): Promise<void>
}

export class HostLink {
  readonly #options: LinkOptions
  readonly #backoff = new Backoff(DIAL_WAIT_MS_FIRST, DIAL_WAIT_MS_MAX)
  #calls: HostCalls | undefined
  /** Whom the link that is up leads to. */
  #peer: { readonly instance: string; readonly eventsPerPublish: number; readonly socket: Socket } | undefined
  #waiting = new Set<(calls: HostCalls) => void>()
  #configured = false
  #ready = false

  constructor(options: LinkOptions) {
    this.#options = options
  }

  /** Keeps the link up, for ever or until `signal`. Rejects with its reason, or when the guest could not be configured. */
  async run(signal?: AbortSignal): Promise<never> {
    for (;;) {
      await this.#once(signal)
      await this.#backoff.wait(signal)
    }
  }

  /** True while the sandboxer can be called. */
  get up(): boolean {
    return this.#calls !== undefined
  }

  /** How many events the sandboxer takes in one Publish. */
  get eventsPerPublish(): number {
    return this.#peer?.eventsPerPublish ?? 1
  }

  /**
   * Another sandboxer than the link's has called: the old one is gone, and its end of the link with it. That may have
   * gone unheard (vhost-device-vsock 0.3.0 passes over a connection that was closed with bytes unread). Calls under way fail
   * as if it had been heard.
   */
  calledBy(instance: string): void {
    if (instance !== '' && this.#peer !== undefined && this.#peer.instance !== instance) this.#peer.socket.destroy()
  }

  /** The sandboxer's methods as soon as it is there; UNAVAILABLE after `limitMs`. */
  async calls(limitMs: number): Promise<HostCalls> {
    if (this.#calls !== undefined) return this.#calls
    const { promise, resolve, reject } = Promise.withResolvers<HostCalls>()
    this.#waiting.add(resolve)
    const timer = setTimeout(() => {
      reject(new RuntimeError('UNAVAILABLE', `the sandboxer has been away for ${limitMs / 1000} s; is it running on the host?`))
    }, limitMs)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#waiting.delete(resolve)
    }
  }

  /** Repeats an idempotent call whose answer was lost with the link, within `limitMs`. */
  async call<T>(limitMs: number, work: (calls: HostCalls) => Promise<T>): Promise<T> {
    const endMs = performance.now() + limitMs
    for (;;) {
      const calls = await this.calls(Math.max(0, endMs - performance.now()))
      try {
        return await work(calls)
      } catch (error) {
        if (!hasCode(error, 'UNAVAILABLE') || performance.now() >= endMs) throw error
        // The call may hear of the connection's end before the link does.
        await nextTurn()
        if (this.#calls === calls) throw error
      }
    }
  }

  async #once(signal: AbortSignal | undefined): Promise<void> {
    const { rpc, log, writeBytesMax } = this.#options
    let socket: Socket
    try {
      socket = await this.#options.dial()
    } catch (error) {
      log.debug('the sandboxer does not answer', { error: explain(error) })
      return
    }
    const client = new TtrpcClient(socket, { writeBytesMax })
    const calls = client.calls(rpc.host)
    const close = () => client.close()
    signal?.addEventListener('abort', close, { once: true })
    try {
      const answer = await this.#greet(calls)
      if (answer === undefined) return
      this.#backoff.reset()
      this.#calls = calls
      // A sandboxer that does not say takes one.
      this.#peer = { instance: answer.instance, eventsPerPublish: Math.max(1, answer.eventsPerPublish), socket }
      for (const resolve of this.#waiting) resolve(calls)
      await client.closed
      log.info('the link to the sandboxer is down')
      this.#options.lost()
    } finally {
      signal?.removeEventListener('abort', close)
      this.#calls = undefined
      this.#peer = undefined
      client.close()
    }
  }

  /** Undefined when the sandboxer did not take it, or the link broke; throws when the guest could not be configured. */
  async #greet(calls: HostCalls): Promise<HelloAnswer | undefined> {
    const resumed = this.#configured
    try {
      const answer = await calls.Hello(this.#options.hello(resumed), resumed ? { timeoutMs: RESUMED_HELLO_MS_MAX } : {})
      if (!this.#configured) await this.#configure(answer)
      if (!this.#ready) await this.#options.ready(calls)
      this.#ready = true
      return answer
    } catch (error) {
      if (error instanceof ConfigureError) throw error.cause
      this.#options.log.warn('the sandboxer did not take the hello', { error: explain(error) })
      return undefined
    }
  }

  async #configure(answer: HelloAnswer): Promise<void> {
    try {
      await this.#options.configure(answer)
    } catch (error) {
      throw new ConfigureError('the guest cannot be configured', { cause: error })
    }
    this.#configured = true
  }
}

/** Tells a failure of the guest's own from one of the link. */
class ConfigureError extends Error {}
