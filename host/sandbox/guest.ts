/**
 * What a guest may ask of its sandbox over the link it opened, as plain data. The service that decodes these calls
 * (api/host-service.ts) and the sandbox that answers them meet here.
 */
import type { GuestStorage, PreparedContainer } from '../container/contract.ts'
import type { EventEnvelope } from '../containerd/contract.ts'
import type { PodNetwork } from '#shared/network.ts'
import type { GuestConfig } from './plan.ts'

/** The newest version of kuasar.host and kuasar.agent this sandboxer speaks, and the oldest. */
export const PROTOCOL_VERSION = 1
export const PROTOCOL_VERSION_MIN = 1

export interface BootMark {
  readonly name: string
  readonly boottimeNanos: bigint
}

export interface Hello {
  readonly protocolVersion: number
  readonly agentVersion: string
  readonly kernelVersion: string
  /** This boot has been configured by the answer to an earlier Hello. */
  readonly resumed: boolean
  readonly boot: readonly BootMark[]
  readonly boottimeNanos: bigint
  readonly arrivedAtMs: number
  /** Said by a VM that waited for its pod, which hears of it only now: its boot was before that pod's start. */
  readonly warm?: boolean
}

export interface Welcome {
  readonly protocolVersion: number
  readonly sandboxId: string
  readonly guest: GuestConfig
  /** Processes and threads of the pod's containers together, as its cgroup has it now; 0 for no limit */
  readonly pidsLimit: number
  readonly network: PodNetwork
  /** MACs of the guest's cards in the order of the network's links; none when they are the links' own */
  readonly cards: readonly string[]
  /** What the guest mounts before it is ready, in order. */
  readonly storages: readonly GuestStorage[]
  readonly logLevel: string
}

export interface Ready {
  readonly boot: readonly BootMark[]
  readonly boottimeNanos: bigint
  readonly arrivedAtMs: number
}

/** Two times of a guest's, on the host's clock; the later one is not after its message's arrival. */
export interface Claimed {
  readonly startMs: number
  readonly endMs: number
}

/**
 * What a guest did that none of ours does.
 *
 * call     one that was answered INVALID_ARGUMENT or FAILED_PRECONDITION; a stop may overtake a call, too
 * request  one that became no call: malformed, for a method that there is not, beyond a limit of its link
 * dials    so many links that its listener rests
 * log      a record beyond the rate that is written
 */
export const guestRefusals = ['call', 'request', 'dials', 'log'] as const
export type GuestRefusal = (typeof guestRefusals)[number]

/** Calls arrive in any order and from a hostile peer; each answers or rejects with a RuntimeError. */
export interface GuestPeer {
  readonly id: string
  /** `signal` ends with the connection: nobody waits for the answer any more. */
  hello(hello: Hello, signal: AbortSignal): Welcome | Promise<Welcome>
  ready(ready: Ready): void
  prepare(containerId: string, signal: AbortSignal): Promise<PreparedContainer>
  release(containerId: string): Promise<void>
  /** crun has made a container, between two times that the guest claims; of no consequence but to the trace. */
  created(containerId: string, crun: Claimed): void
  publish(sequence: bigint, containerId: string, event: EventEnvelope, signal: AbortSignal): Promise<void>
}

/** Listens for one sandbox's guest on a unix socket; closing ends the connections too. */
export interface GuestLinks {
  listen(socketPath: string, peer: GuestPeer): Promise<AsyncDisposable>
}
