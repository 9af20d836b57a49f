/** The sandboxes of a node together: how many there may be. Records are kept in memory here; nothing is started. */
import t from 'tap'
import { createGuestLinks } from '#host/api/host-service.ts'
import { createFakeBackend } from '#host/backends/fake/backend.ts'
import { createPreparer } from '#host/container/prepare.ts'
import { createContainerd } from '#host/containerd/client.ts'
import { createForwards } from '#host/forward/forwards.ts'
import { AgentLink } from '#host/link/agent.ts'
import { bindBackend } from '#host/sandbox/backends.ts'
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
import { podRequest, sizing } from '#test/support/pod-request.ts'

/** As SPECIFICATION.md has it. */
const SANDBOXES_MAX = 4096

const rpc = loadServices(loadProtos())
const os = createNativeOs()
const cgroupParent = '/kuasar-test'

class MemoryStore implements RecordStore {
  readonly records = new Map<string, string>()
  write = async (id: string, text: string) => void this.records.set(id, text)
  remove = async (id: string) => void this.records.delete(id)
  list = async () => [...this.records].map(([id, text]) => ({ id, text }))
  quarantine = async (id: string) => id
}

t.test('so many sandboxes, and one more once one has gone', async (t) => {
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
  }
  const sandboxes = new Sandboxes(services)
  const create = (sandboxId: string) => sandboxes.create(parseId(sandboxId), podRequest({ sandboxId }), { sandboxer: 'fake', namespace: 'k8s.io', sizing, cgroupParent })

  for (let index = 0; index < SANDBOXES_MAX; index++) await create(`s${index}`)
  t.equal(sandboxes.all.length, SANDBOXES_MAX)
  const beyond = { code: 'RESOURCE_EXHAUSTED', message: /holds 4096 sandboxes, which is the limit/ }
  await t.rejects(create('beyond'), beyond)
  t.equal(sandboxes.find('beyond'), undefined)
  t.notOk(store.records.has('beyond'), 'nothing of it is on record')
  t.equal(store.records.size, SANDBOXES_MAX)
  await t.rejects(create('s0'), { code: 'ALREADY_EXISTS' }, 'of one that is there, that is said')

  await sandboxes.get('s0').shutdown()
  t.match(await create('beyond'), { id: 'beyond' })
  await t.rejects(create('s0'), beyond)
})
