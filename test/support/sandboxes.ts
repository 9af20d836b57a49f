/** Sandboxes in this very process: real ledgers, links and guests of the fake backend; records are kept in memory. */
import { createGuestLinks } from '#host/api/host-service.ts'
import { createFakeBackend } from '#host/backends/fake/backend.ts'
import { createPreparer } from '#host/container/prepare.ts'
import { createContainerd } from '#host/containerd/client.ts'
import { createForwards } from '#host/forward/forwards.ts'
import { AgentLink } from '#host/link/agent.ts'
import { bindBackend } from '#host/sandbox/backends.ts'
import { unobserved } from '#host/sandbox/observer.ts'
import { parseRecord, type SandboxRecord } from '#host/sandbox/record.ts'
import { Sandboxes } from '#host/sandbox/sandboxes.ts'
import type { SandboxServices } from '#host/sandbox/services.ts'
import type { RecordStore } from '#host/sandbox/store.ts'
import { undo } from '#host/sandbox/undo.ts'
import { WarmPool } from '#host/sandbox/warm-pool.ts'
import { sandboxId as parseId } from '#shared/ids.ts'
import { silentLog } from '#shared/log.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import type { Test } from 'tap'
import { podRequest, sizing } from './pod-request.ts'

export const rpc = loadServices(loadProtos())
const os = createNativeOs()
const cgroupParent = '/kuasar-test'

export class MemoryStore implements RecordStore {
  readonly records = new Map<string, string>()
  readonly #written: string[] = []
  readonly quarantined: string[] = []
  /** Set to have no room for a record, or for such a one */
  full: boolean | ((record: SandboxRecord) => boolean) = false

  async write(id: string, text: string): Promise<void> {
    if (typeof this.full === 'boolean' ? this.full : this.full(parseRecord(text, id))) throw new Error('no room')
    this.records.set(id, text)
    this.#written.push(text)
  }

  async remove(id: string): Promise<void> {
    this.records.delete(id)
  }

  async list() {
    return [...this.records].map(([id, text]) => ({ id, text }))
  }

  async quarantine(id: string): Promise<string> {
    this.records.delete(id)
    this.quarantined.push(id)
    return id
  }

  /** Every state that was written, in order, the same again left out. */
  get states(): readonly SandboxRecord['state'][] {
    const states = this.#written.map((text) => parseRecord(text, 'a record').state)
    return states.filter((state, index) => state !== states[index - 1])
  }

  read(id: string): SandboxRecord {
    return parseRecord(this.records.get(id) ?? '', id)
  }
}

/** containerd is away. `changes`: what a test has otherwise. */
export function sandboxesOf(t: Test, changes: Partial<SandboxServices> = {}) {
  const store = new MemoryStore()
  const containerd = createContainerd({ socketPath: '/nowhere', namespace: 'k8s.io', rpc })
  t.teardown(() => containerd.close())
  const fake = bindBackend(createFakeBackend({ rpc, processes: os.processes }, 'none'), {}, 'fake')
  const services: SandboxServices = {
    sandboxesDir: '/run/kuasar-test/sandboxes',
    namespace: 'k8s.io',
    bootId: 'b',
    store,
    undo,
    mounts: os.mounts,
    cgroupRoots: [],
    backend: (name) => (name === 'fake' ? fake : undefined),
    links: createGuestLinks(rpc, 'test', silentLog),
    forwards: createForwards(os.localhost),
    agent: (dial) => new AgentLink(dial, rpc, 'test'),
    preparer: createPreparer({ containerd, mounts: os.mounts, containerdStateDir: '/nowhere' }),
    containerd,
    warm: new WarmPool({ wanted: new Map(), size: { vcpus: 1, memoryMiB: 512 }, cgroupParent }),
    limits: { startMs: 10_000, stopGraceMs: 100, stopMs: 1_000, adoptMs: 1_000, beatMs: 10_000, settleMs: 1_000, busyMs: 1_000 },
    logLevel: () => 'info',
    log: silentLog,
    observer: unobserved,
    ...changes,
  }
  const sandboxes = new Sandboxes(services)
  const create = (sandboxId: string, annotations: Readonly<Record<string, string>> = {}) =>
    sandboxes.create(parseId(sandboxId), podRequest({ sandboxId, annotations }), { sandboxer: 'fake', namespace: 'k8s.io', sizing, cgroupParent })
  return { store, fake, services, containerd, sandboxes, create }
}
