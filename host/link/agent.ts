/** The sandboxer's side of kuasar.agent.v1: one connection per guest, opened on first use and again after it broke. */
import type { Socket } from 'node:net'
import { abortable } from '#shared/abortable.ts'
import { RuntimeError } from '#shared/errors.ts'
import { GUEST_MESSAGE_BYTES_MAX, GUEST_MESSAGE_FIELDS_MAX, GUEST_READ_SHARE_MAX } from '#shared/link-limits.ts'
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

export interface GuestTask {
  readonly containerId: string
  readonly pid: number
  readonly status: string
}

type Agent = Calls<ServiceTypesOf<'agent'>>

export class AgentLink {
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
    await (await this.#agent(signal)).Ping({ instance: this.#instance }, { signal })
  }

  async tasks(signal: AbortSignal): Promise<readonly GuestTask[]> {
    const { tasks } = await (await this.#agent(signal)).Tasks({}, { signal })
    return tasks.map(({ containerId, pid, status }) => ({ containerId, pid, status }))
  }

  async purge(containerId: string, signal: AbortSignal): Promise<void> {
    await (await this.#agent(signal)).Purge({ containerId }, { signal })
  }

  async stats(signal: AbortSignal): Promise<{ readonly metrics: AnyValue | null; readonly realtimeNanos: string }> {
    return (await this.#agent(signal)).Stats({}, { signal })
  }

  /** How far the guest's clock is ahead, with the time the request was under way, before it was set forward by `stepNanos`. */
  async syncClock(stepNanos: bigint, signal: AbortSignal): Promise<{ readonly offsetNanos: bigint; readonly roundTripNanos: bigint }> {
    const agent = await this.#agent(signal)
    const leftAt = process.hrtime.bigint()
    const realtimeNanos = String(BigInt(Date.now()) * 1_000_000n)
    const { offsetNanos } = await agent.SyncClock({ instance: this.#instance, realtimeNanos, stepNanos: String(stepNanos) }, { signal })
    return { offsetNanos: BigInt(offsetNanos), roundTripNanos: process.hrtime.bigint() - leftAt }
  }

  async updateNetwork(network: PodNetwork, signal: AbortSignal): Promise<void> {
    await (await this.#agent(signal)).UpdateNetwork({ network: networkMessage(network) }, { signal })
  }

  async shutdown(graceMs: number, signal: AbortSignal): Promise<void> {
    await (await this.#agent(signal)).Shutdown({ graceMillis: graceMs }, { signal })
  }

  close(): void {
    this.#closed.abort(new RuntimeError('CANCELLED', 'the link to the agent is closed'))
    this.#connection?.then(({ client }) => client.close()).catch(() => {})
    this.#connection = undefined
  }

  async #agent(signal: AbortSignal): Promise<Agent> {
    this.#connection ??= this.#connect()
    return (await abortable(this.#connection, signal)).agent
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
