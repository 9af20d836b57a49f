/** The pool of warm VMs with real guests of the fake backend, real ledgers and real links. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createGuestLinks } from '#host/api/host-service.ts'
import { createFakeBackend } from '#host/backends/fake/backend.ts'
import { createForwards } from '#host/forward/forwards.ts'
import { bindBackend } from '#host/sandbox/backends.ts'
import { unobserved, type WarmFate } from '#host/sandbox/observer.ts'
import type { SandboxRecord } from '#host/sandbox/record.ts'
import type { LaunchServices } from '#host/sandbox/services.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { undo } from '#host/sandbox/undo.ts'
import { WarmPool, type WarmOptions } from '#host/sandbox/warm-pool.ts'
import { LINK_PORT } from '#shared/link-port.ts'
import { silentLog } from '#shared/log.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { sandboxRecord } from '#test/support/record.ts'

const rpc = loadServices(loadProtos())
const os = createNativeOs()
const size = { vcpus: 1, memoryMiB: 512 }

/** @param processes guests as processes of their own, which can be killed */
async function opened(t: Test, wanted: Readonly<Record<string, number>>, processes = false) {
  const dir = await mkdtemp('/tmp/warm-')
  const sandboxesDir = join(dir, 'sandboxes')
  await mkdir(sandboxesDir)
  const fake = bindBackend(createFakeBackend({ rpc, processes: os.processes }, 'none'), { processes }, 'fake')
  const fates: WarmFate[] = []
  const services: LaunchServices = {
    sandboxesDir,
    namespace: 'k8s.io',
    bootId: 'b',
    store: await DirectoryStore.open(join(dir, 'ledger')),
    undo,
    mounts: os.mounts,
    cgroupRoots: [],
    backend: (name) => (Object.hasOwn(wanted, name) ? fake : undefined),
    links: createGuestLinks(rpc, 'test', silentLog),
    forwards: createForwards(os.localhost),
    limits: { startMs: 10_000 },
    logLevel: () => 'info',
    log: silentLog,
    observer: { ...unobserved, warmEnded: (_, fate) => void fates.push(fate) },
  }
  const options: WarmOptions = { wanted: new Map(Object.entries(wanted)), size, cgroupParent: '/kuasar-test' }
  const pool = new WarmPool(options)
  t.teardown(async () => {
    await pool.close()
    await rm(dir, { recursive: true })
  })
  /** Ids on disk */
  const records = async () => (await services.store.list()).map(({ id }) => id)
  const directories = () => readdir(sandboxesDir)
  return { dir, pool, services, records, directories, fates }
}

const waiting = (pool: WarmPool): string[] => pool.all.filter(({ state }) => state === 'warm').map(({ record }) => record.id)

async function until(what: string, is: () => boolean): Promise<void> {
  for (let polls = 0; !is(); polls++) {
    if (polls > 2_000) throw new Error(`${what} does not come`)
    await sleep(10)
  }
}

function pod(plan: Partial<SandboxRecord['plan']> = {}, sandboxer = 'fake'): SandboxRecord {
  return sandboxRecord({ id: 'pod', sandboxer, state: 'starting', plan: { ...sandboxRecord().plan, ...size, ...plan } })
}

t.test('none is wanted: nothing is made', async (t) => {
  const { pool, services, records, directories } = await opened(t, { fake: 0 })
  pool.begin(services, [])
  pool.starting()[Symbol.dispose]()
  t.same(pool.all, [])
  t.notOk(pool.has(pod()))
  t.same([...(await records()), ...(await directories())], [])
})

t.test('filled, taken from, filled again once nobody starts, and ended', async (t) => {
  const { pool, services, records, directories, fates } = await opened(t, { fake: 2 })
  pool.begin(services, [])
  await until('two VMs', () => waiting(pool).length === 2)
  t.same((await records()).toSorted(), waiting(pool).toSorted(), 'each has a record')
  const [first, second] = waiting(pool)
  const starting = [pool.starting(), pool.starting()]
  const taken = pool.take(pod())
  t.equal(taken?.id, first, 'the one that waited longest')
  starting[0]?.[Symbol.dispose]()
  await sleep(50)
  t.same(pool.all.map(({ record }) => record.id), [second], 'somebody still starts')
  starting[1]?.[Symbol.dispose]()
  await until('a third', () => waiting(pool).length === 2)
  t.notOk(waiting(pool).includes(taken?.id ?? ''), 'it is nobody’s to take again')
  if (taken !== undefined) await pool.end(taken)
  t.notOk((await directories()).includes(taken?.id ?? ''), 'what could not be handed over is ended')
  t.same(fates, ['unusable'])
  await pool.close()
  t.same(pool.all, [])
  t.same([...(await records()), ...(await directories())], [])
  t.equal(pool.take(pod()), undefined)
})

t.test('only a pod that would have booted just so gets one', async (t) => {
  const { pool, services } = await opened(t, { fake: 1, other: 0 })
  pool.begin(services, [])
  await until('a VM', () => waiting(pool).length === 1)
  const { guest } = pod().plan
  for (const [what, record] of [
    ['more processors', pod({ vcpus: 2 })],
    ['less memory', pod({ memoryMiB: 256 })],
    ['an annotation', pod({ annotations: { 'io.kuasar.shm-mib': '1' } })],
    ['huge pages', pod({ guest: { ...guest, hugepagesMiB: 2 } })],
    ['another backend', pod({}, 'other')],
  ] as const) {
    t.notOk(pool.has(record), what)
    t.equal(pool.take(record), undefined, what)
  }
  t.ok(pool.has(pod({ guest: { ...guest, hostname: 'x', sysctls: { 'net.core.somaxconn': '1' } } })), 'what comes with Hello’s answer does not matter')
})

t.test('one that dies is replaced, one that cannot boot is tried again, and another backend’s is made meanwhile', async (t) => {
  const { pool, services, records, directories, fates } = await opened(t, { broken: 1, fake: 1 }, true)
  let broken = true
  const { backend } = services
  const mended: LaunchServices = {
    ...services,
    backend: (name) => {
      const found = backend(name)
      if (found === undefined || name === 'fake') return found
      return { ...found, launch: (plan, context) => (broken ? Promise.reject(new Error('no power')) : found.launch(plan, context)) }
    },
  }
  pool.begin(mended, [])
  await until('the one that can', () => waiting(pool).length === 1)
  broken = false
  await until('both', () => waiting(pool).length === 2)
  t.same((await records()).toSorted(), waiting(pool).toSorted(), 'nothing is left of what did not boot')
  const [dying] = pool.all
  if (dying === undefined) throw new Error('none waits')
  process.kill(dying.vmmPid, 'SIGKILL')
  await until('its successor', () => waiting(pool).length === 2 && !waiting(pool).includes(dying.record.id))
  t.same((await records()).toSorted(), waiting(pool).toSorted())
  t.same((await directories()).toSorted(), waiting(pool).toSorted())
  t.same([...new Set(fates)], ['boot-failed', 'died'])
})

t.test('one that has dropped its Hello when a sandbox has started makes way for another', async (t) => {
  const { pool, services, fates } = await opened(t, { fake: 1 })
  pool.begin(services, [])
  await until('a VM', () => waiting(pool).length === 1)
  const [mute] = waiting(pool)
  // The newest link wins, and this one says nothing. The guest will not have called again so soon.
  const link = connect(join(services.sandboxesDir, mute ?? '', `vsock_${LINK_PORT}`))
  t.teardown(() => link.destroy())
  await until('the end of its Hello', () => !pool.has(pod()))
  pool.starting()[Symbol.dispose]()
  await until('another', () => waiting(pool).length === 1 && waiting(pool)[0] !== mute)
  t.same(fates, ['mute'])
})

t.test('what an earlier sandboxer had is ended first', async (t) => {
  const { pool, services, records, directories } = await opened(t, { fake: 1 })
  const path = join(services.sandboxesDir, '_warm-old')
  await mkdir(path)
  const old: SandboxRecord = { ...pod(), id: '_warm-old', state: 'warm', owned: [{ kind: 'directory', path }] }
  await services.store.write(old.id, '{}')
  pool.begin(services, [old])
  await until('a VM', () => waiting(pool).length === 1)
  t.same(await records(), waiting(pool))
  t.same(await directories(), waiting(pool))
})

t.test('a sandboxer that ends while one boots ends that too', async (t) => {
  const { pool, services, records, directories } = await opened(t, { fake: 1 })
  pool.begin(services, [])
  await until('a boot', () => pool.all.length === 1)
  await pool.close()
  t.same([...(await records()), ...(await directories())], [])
  t.same(pool.all, [])
})
