/** The sandboxer's side of kuasar.agent.v1: one connection per guest, opened on first use and again after it broke. */
import type { Socket } from 'node:net'
import { abortable } from '#shared/abortable.ts'
import { RuntimeError } from '#shared/errors.ts'
import { GUEST_MESSAGE_BYTES_MAX, GUEST_MESSAGE_FIELDS_MAX, GUEST_READ_SHARE_MAX, LOG_MESSAGE_LENGTH_MAX } from '#shared/link-limits.ts'
import type { AnyValue } from '#shared/rpc/any.ts'
import type { Rpc, ServiceTypesOf } from '#shared/rpc/services.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { TimeShare } from '#shared/ttrpc/time-share.ts'
import type { PodNetwork } from '#shared/network.ts'
import { networkMessage } from './network.ts'

/** vsock port on which the agent serves Task, Streaming and kuasar.agent.v1. */
export const AGENT_PORT = 1024

const limits = { receivedFrameBytesMax: GUEST_MESSAGE_BYTES_MAX, receivedFieldsMax: GUEST_MESSAGE_FIELDS_MAX }

/** Of one file that a guest sends for whoever looks into its agent. */
const DUMP_BYTES_MAX = 512 * 1024 * 1024

export interface GuestTask {
  readonly containerId: string
  readonly pid: number
  readonly status: string
}

type Agent = Calls<ServiceTypesOf<'agent'>>

export class AgentLink implements Disposable {
  readonly #dial: (port: number, signal: AbortSignal) => Promise<Socket>
  readonly #rpc: Rpc
  readonly #instance: string
  readonly #readShare = new TimeShare(GUEST_READ_SHARE_MAX)
  readonly #closed = new AbortController()
  #connection: Promise<{ readonly client: TtrpcClient; readonly agent: Agent }> | undefined

  /** `dial` has a limit of its own. `instance` tells this sandboxer from the guest's former ones. */
  constructor(dial: (port: number, signal: AbortSignal) => Promise<Socket>, rpc: Rpc, instance: string) {
    this.#dial = dial
    this.#rpc = rpc
    this.#instance = instance
  }

  async ping(signal: AbortSignal): Promise<void> {
    await this.#ask(signal, (agent) => agent.Ping({ instance: this.#instance }, { signal }))
  }

  async tasks(signal: AbortSignal): Promise<readonly GuestTask[]> {
    const { tasks } = await this.#ask(signal, (agent) => agent.Tasks({}, { signal }))
    return tasks.map(({ containerId, pid, status }) => ({ containerId, pid, status }))
  }

  async purge(containerId: string, signal: AbortSignal): Promise<void> {
    await this.#ask(signal, (agent) => agent.Purge({ containerId }, { signal }))
  }

  async stats(signal: AbortSignal): Promise<{ readonly metrics: AnyValue | null; readonly realtimeNanos: string }> {
    return this.#ask(signal, (agent) => agent.Stats({}, { signal }))
  }

  /** How far the guest's clock is ahead, with the time the request was under way, before it was set forward by `stepNanos`. */
  async syncClock(stepNanos: bigint, signal: AbortSignal): Promise<{ readonly offsetNanos: bigint; readonly roundTripNanos: bigint }> {
    return this.#ask(signal, async (agent) => {
      const leftAt = process.hrtime.bigint()
      const realtimeNanos = String(BigInt(Date.now()) * 1_000_000n)
      const { offsetNanos } = await agent.SyncClock({ instance: this.#instance, realtimeNanos, stepNanos: String(stepNanos) }, { signal })
      return { offsetNanos: BigInt(offsetNanos), roundTripNanos: process.hrtime.bigint() - leftAt }
    })
  }

  async updateNetwork(network: PodNetwork, signal: AbortSignal): Promise<void> {
    await this.#ask(signal, (agent) => agent.UpdateNetwork({ network: networkMessage(network) }, { signal }))
  }

  async shutdown(graceMs: number, signal: AbortSignal): Promise<void> {
    await this.#ask(signal, (agent) => agent.Shutdown({ graceMillis: graceMs }, { signal }))
  }

  /** Errors besides the link's own: INVALID_ARGUMENT, DEADLINE_EXCEEDED, as the agent has them. */
  async evaluate(expression: string, signal: AbortSignal): Promise<{ readonly text: string; readonly threw: boolean }> {
    return this.#ask(signal, (agent) => agent.Evaluate({ expression }, { signal }))
  }

  /** A CPU profile of the agent's, in pieces. */
  profile(durationMillis: number, signal: AbortSignal): AsyncIterable<Buffer> {
    return this.#dump(signal, (agent) => agent.Profile({ durationMillis }, { signal }))
  }

  /** The agent's heap, in pieces. */
  heapSnapshot(signal: AbortSignal): AsyncIterable<Buffer> {
    return this.#dump(signal, (agent) => agent.HeapSnapshot({}, { signal }))
  }

  close(): void {
    this.#closed.abort(new RuntimeError('CANCELLED', 'the link to the agent is closed'))
    this.#connection?.then(({ client }) => client.close()).catch(() => {})
    this.#connection = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async *#dump(signal: AbortSignal, call: (agent: Agent) => AsyncIterable<{ readonly data: Buffer }>): AsyncGenerator<Buffer> {
    let bytes = 0
    for await (const { data } of await this.#ask(signal, async (agent) => call(agent))) {
      bytes += data.length
      if (bytes > DUMP_BYTES_MAX) throw new RuntimeError('RESOURCE_EXHAUSTED', `the guest sends more than ${DUMP_BYTES_MAX} bytes: no agent has so much`)
      yield data
    }
  }

  /** What the guest says of a failure goes into logs and errors: no more of it than a line of its log may have. */
  async #ask<T>(signal: AbortSignal, call: (agent: Agent) => Promise<T>): Promise<T> {
    this.#connection ??= this.#connect()
    const { agent } = await abortable(this.#connection, signal)
    try {
      return await call(agent)
    } catch (error) {
      if (!(error instanceof RuntimeError) || error.message.length <= LOG_MESSAGE_LENGTH_MAX) throw error
      throw new RuntimeError(error.code, `${error.message.slice(0, LOG_MESSAGE_LENGTH_MAX)}…`)
    }
  }

  /** Not given up with the call that asked for it first: others may wait for it by then. */
  #connect(): Promise<{ client: TtrpcClient; agent: Agent }> {
    const connecting = this.#dial(AGENT_PORT, this.#closed.signal).then((socket) => {
      const client = new TtrpcClient(socket, { ...limits, readShare: this.#readShare })
      void client.closed.then(forget)
      if (this.#closed.signal.aborted) client.close()
      return { client, agent: client.calls(this.#rpc.agent) }
    })
    const forget = () => {
      if (this.#connection === connecting) this.#connection = undefined
    }
    connecting.catch(forget)
    return connecting
  }
}
