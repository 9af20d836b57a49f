/** What the sandboxer tells the guest about its pod, in the agent's own terms. */
import type { PodNetwork } from '#shared/network.ts'
import type { Storage } from './storage/storages.ts'

export interface PodConfig {
  readonly sandboxId: string
  readonly hostname: string
  readonly dns: { readonly servers: readonly string[]; readonly searches: readonly string[]; readonly options: readonly string[] }
  /** Kernel parameters in dotted or slashed form. */
  readonly sysctls: ReadonlyMap<string, string>
  readonly network: PodNetwork
  /** The MACs that the network cards were made with, in the order of the network's links; none: the links' own. */
  readonly cards: readonly string[]
  readonly storages: readonly Storage[]
  /** The host's clock in nanoseconds since the epoch, when the answer was written. */
  readonly realtimeNanos: bigint
  /** Size of the shared /dev/shm. */
  readonly shmBytes: bigint
  /** To set aside in pages of 2 MiB. */
  readonly hugepageBytes: number
  /** Of the pod's containers together; 0: none. */
  readonly memoryLimitBytes: number
  /** Processes and threads of the pod's containers together; 0: no limit. */
  readonly pidsLimit: number
  readonly logLevel: string
  readonly hostsLines: readonly string[]
}
