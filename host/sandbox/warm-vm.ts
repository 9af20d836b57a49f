/** One warm VM: a sandbox's VM without a sandbox, up to the first Hello of its agent. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { BoundBackend } from './backends.ts'
import { yieldProcessors } from './cgroup.ts'
import { Ledger } from './ledger.ts'
import { connectNowhere } from './network.ts'
import { cgroupPath } from './plan.ts'
import { RECORD_VERSION, type SandboxRecord } from './record.ts'
import type { LaunchServices } from './services.ts'
import { type Connections, type Launched, launch, paths } from './start.ts'
import { nowMs, Trace } from './trace.ts'
import { WarmPeer } from './warm-peer.ts'

/** All that a warm VM is made from. */
export interface WarmSetting {
  readonly sandboxer: string
  readonly backend: BoundBackend
  readonly size: Pick<SandboxRecord['plan'], 'vcpus' | 'memoryMiB'>
  readonly cgroupParent: string
  readonly namespace: string
}

export interface WarmVm {
  /** Names its directory, also as a pod's */
  readonly id: string
  readonly ledger: Ledger
  readonly peer: WarmPeer
  readonly launched: Launched
  readonly bootMs: number
  readonly sinceMs: number
}

/** No pod has such an id: containerd's begin with a letter or a digit. */
const newId = (): string => `_warm-${randomBytes(4).toString('hex')}`

const nowhere: Connections = {
  async network(ledger) {
    // Before the first process: what serves nobody yet waits for what does.
    await yieldProcessors(ledger.record.cgroupProcs)
    await connectNowhere(ledger)
  },
  forwards: async () => ({ [Symbol.dispose]() {} }),
}

/** The ledger of a VM that is to be; nothing is durable before its first write. */
export function warmLedger({ sandboxer, backend, size, cgroupParent, namespace }: WarmSetting, services: LaunchServices): Ledger {
  const id = newId()
  const { dir } = paths(services.sandboxesDir, { id })
  const guest = { hostname: '', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 0, hugepagesMiB: 0, memoryLimitBytes: 0 }
  const record: SandboxRecord = {
    version: RECORD_VERSION,
    id,
    sandboxer,
    namespace,
    bootId: services.bootId,
    createdAtMs: Date.now(),
    pod: { name: '', namespace: '', uid: '', attempt: 0 },
    state: 'warm',
    plan: {
      ...size,
      netnsPath: backend.capabilities.ownKernel ? join(dir, 'netns') : undefined,
      cgroupPath: cgroupPath(cgroupParent, id),
      annotations: {},
      guest,
    },
    owned: [],
    spans: [],
    cgroupProcs: [],
    containers: [],
    published: '0',
  }
  return new Ledger(record, services.store, services.undo)
}

/** Resolves when the agent has said Hello. Errors as a sandbox's start has them; what was made by then is in the ledger. */
export async function bootWarmVm(ledger: Ledger, backend: BoundBackend, services: LaunchServices, signal: AbortSignal): Promise<WarmVm> {
  const startMs = nowMs()
  const peer = new WarmPeer(ledger.sandboxId)
  const handshake = { ready: peer.greeted, waitingFor: 'hello' } as const
  const launched = await launch({ ledger, backend, services, trace: new Trace(), peer, handshake, signal }, nowhere)
  return { id: ledger.sandboxId, ledger, peer, launched, bootMs: nowMs() - startMs, sinceMs: nowMs() }
}
