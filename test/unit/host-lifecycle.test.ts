/** A sandbox from Create to Shutdown, and from one sandboxer to the next: what is on record when, and what an error leaves. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createController } from '#host/api/controller.ts'
import { isAlive, MARKER, processStat } from '#host/sandbox/processes.ts'
import type { SandboxRecord } from '#host/sandbox/record.ts'
import { recover } from '#host/sandbox/recover.ts'
import type { SandboxServices } from '#host/sandbox/services.ts'
import { undo } from '#host/sandbox/undo.ts'
import { WarmPool } from '#host/sandbox/warm-pool.ts'
import { RuntimeError } from '#shared/errors.ts'
import { poll } from '#test/node/poll.ts'
import { sizing } from '#test/support/pod-request.ts'
import { sandboxRecord } from '#test/support/record.ts'
import { rpc, sandboxesOf } from '#test/support/sandboxes.ts'

const forever = new AbortController().signal
const failing = (failure: string) => ({ 'io.kuasar.fake.fail': failure })

async function opened(t: Test, changes: Partial<SandboxServices> = {}) {
  const sandboxesDir = await mkdtemp('/tmp/life-')
  t.teardown(() => rm(sandboxesDir, { recursive: true }))
  return { sandboxesDir, ...sandboxesOf(t, { sandboxesDir, ...changes }) }
}

t.test('each step of a life is on record, the intent before anything is made of it', async (t) => {
  const atLaunch: string[] = []
  const world = await opened(t, { backend: () => ({ ...world.fake, launch: (plan, context) => (atLaunch.push(world.store.read('a').state), world.fake.launch(plan, context)) }) })
  const { store, sandboxes, create, sandboxesDir } = world
  const sandbox = await create('a')
  const waiting = sandbox.wait(forever)
  const { running } = await sandbox.start(forever)
  t.same(atLaunch, ['starting'])
  t.match(store.read('a'), { state: 'ready', taskAddress: running.taskAddress, adoption: running.adoption, readyAtMs: Number })
  await t.rejects(sandbox.start(forever), { code: 'FAILED_PRECONDITION', message: /is ready: start is not possible/ })
  await sandbox.stop()
  t.match(await waiting, { status: 0, reason: 'stopped' })
  t.same(store.states, ['created', 'starting', 'ready', 'stopping', 'stopped'])
  t.match(store.read('a'), { exit: { status: 0 }, owned: [] })
  t.same(await readdir(sandboxesDir), [])
  await sandbox.stop()
  t.match(await sandbox.wait(forever), { status: 0 }, 'answers at once')
  await sandbox.shutdown()
  t.equal(store.records.size, 0)
  t.equal(sandboxes.find('a'), undefined)
  await t.rejects(sandbox.wait(forever), { code: 'NOT_FOUND' })
  await sandbox.shutdown()
})

t.test('a Create that its caller gives up while the record is written leaves none', async (t) => {
  const { store, sandboxes } = await opened(t)
  const controller = createController({ rpc, sandboxes, namespace: 'k8s.io', sizing, cgroupParent: '/kuasar' })
  const given = new AbortController()
  store.full = () => {
    given.abort(new RuntimeError('CANCELLED', 'given up'))
    return false
  }
  const options = rpc.any.pack('runtime.v1.PodSandboxConfig', {})
  const request = { sandboxId: 'a', sandboxer: 'fake', bundlePath: '', rootfs: [], options, netnsPath: '', annotations: {}, sandbox: null }
  await t.rejects(async () => controller.Create?.(request, { signal: given.signal, metadata: {}, deadlineMs: undefined }), { code: 'CANCELLED' })
  t.same([...store.states, ...store.records.keys(), ...sandboxes.all], ['created', 'stopped'], 'it was there, and is gone')
})

t.test('a start that fails is ABORTED, for a deadline of ours is not the caller’s, and leaves nothing', async (t) => {
  const { store, sandboxes, create, sandboxesDir, services } = await opened(t)
  Object.assign(services.limits, { startMs: 1_000 })
  const cases = [['launch', 'launch'], ['hello', 'hello'], ['ready', 'ready'], ['exit', 'ready']] as const
  // Beside each other, for two of them wait until their time is up.
  await Promise.all(
    cases.map(async ([failure, step]) => {
      const sandbox = await create(failure, failing(failure))
      const waiting = sandbox.wait(forever)
      await t.rejects(sandbox.start(forever), { code: 'ABORTED', message: new RegExp(`start failed at step ${step}: `) }, failure)
      t.match(await waiting, { status: 137, reason: new RegExp(`step ${step}`) })
      t.equal(sandboxes.find(failure), undefined)
    }),
  )
  t.same([...store.records.keys(), ...(await readdir(sandboxesDir))], [])
})

t.test('a guest that promises to power off, and does not, is killed when its time is up', async (t) => {
  let kills = 0
  const world = await opened(t, {
    backend: () => ({
      ...world.fake,
      async launch(plan, context) {
        const running = await world.fake.launch(plan, context)
        return { ...running, exited: new Promise(() => {}), kill: () => (kills++, running.kill()) }
      },
    }),
  })
  Object.assign(world.services.limits, { stopGraceMs: 10, stopMs: 40 })
  const sandbox = await world.create('a')
  await sandbox.start(forever)
  await sandbox.stop()
  t.equal(kills, 1)
  t.match(await sandbox.wait(forever), { status: 0 })
  await sandbox.shutdown()
})

t.test('forwards end with their guest, however that ends', async (t) => {
  let open = 0
  const world = await opened(t, {
    backend: () => ({ ...world.fake, capabilities: { ...world.fake.capabilities, portForward: true } }),
    forwards: { open: async () => (open++, { [Symbol.dispose]: () => void open-- }) },
  })
  const failed = await world.create('failed', failing('exit'))
  await t.rejects(failed.start(forever))
  t.equal(open, 0, 'it did not start')
  for (const [id, end] of [['stopped', 'stop'], ['killed', 'kill'], ['died', 'die']] as const) {
    const sandbox = await world.create(id)
    const { running } = await sandbox.start(forever)
    t.equal(open, 1)
    const waiting = sandbox.wait(forever)
    await (end === 'stop' ? sandbox.stop() : end === 'kill' ? sandbox.kill('frozen', 'heartbeat') : running.kill())
    t.match(await waiting, { status: end === 'stop' ? 0 : 137 })
    await sandbox.shutdown()
    t.equal(open, 0, id)
  }
})

t.test('what resists being given back stays on record, is said, and is tried again', async (t) => {
  let resists = true
  const { store, sandboxes, create } = await opened(t, {
    undo: async (resources, id) => (resists ? resources.map(() => new Error('busy')) : undo(resources, id)),
  })
  const sandbox = await create('a')
  const waiting = sandbox.wait(forever)
  await sandbox.start(forever)
  await t.rejects(sandbox.stop(), { code: 'INTERNAL', message: /not everything could be undone: busy/ })
  t.match(await waiting, { status: 0 }, 'it has ended all the same')
  t.match(store.read('a'), { state: 'stopped', owned: [{ kind: 'directory' }] })
  await t.rejects(sandbox.shutdown(), { message: /busy/ })
  t.ok(sandboxes.find('a'), 'and is not forgotten')

  const failed = await create('b', failing('launch'))
  await t.rejects(failed.start(forever), { message: /step launch/ })
  t.match(store.read('b'), { state: 'stopped', exit: { status: 137 }, owned: [{ kind: 'directory' }] })
  t.match(await failed.wait(forever), { status: 137 })

  resists = false
  await sandbox.stop()
  t.same(store.read('a').owned, [])
  for (const one of [sandbox, failed]) await one.shutdown()
  t.equal(store.records.size, 0)
})

t.test('a record that cannot be written keeps no sandbox from ending', async (t) => {
  const { store, sandboxes, create } = await opened(t)
  const [stopped, died] = [await create('stopped'), await create('died')]
  const waiting = [stopped.wait(forever), died.wait(forever)]
  await stopped.start(forever)
  const { running } = await died.start(forever)
  store.full = true
  await t.rejects(stopped.stop(), { message: /no room/ })
  await running.kill()
  t.match(await Promise.all(waiting), [{ status: 0 }, { status: 137 }])
  await t.rejects(create('more'), { message: 'no room' })
  t.equal(sandboxes.find('more'), undefined)
  store.full = false
  for (const sandbox of [stopped, died]) {
    await sandbox.shutdown()
    t.equal(sandbox.state.kind, 'gone')
  }
})

/** One warm VM waits. */
async function warm(t: Test) {
  const pool = new WarmPool({ wanted: new Map([['fake', 1]]), size: { vcpus: 1, memoryMiB: 512 }, cgroupParent: '/kuasar-test' })
  const world = await opened(t, { warm: pool })
  pool.begin(world.services, [])
  t.teardown(() => pool.close())
  const vm = await poll(10_000, async () => pool.all.find(({ state }) => state === 'warm')?.record.id)
  // What it leaves when it is taken is not filled up while somebody starts.
  return { ...world, pool, vm: vm ?? '', starting: pool.starting() }
}

t.test('a start on a warm VM: all it owns is the sandbox’s, under the name of the VM', async (t) => {
  const { store, sandboxes, create, sandboxesDir, vm } = await warm(t)
  const sandbox = await create('a')
  const { running } = await sandbox.start(forever)
  t.match(store.read('a'), { state: 'ready', vm, taskAddress: `ttrpc+unix://${sandboxesDir}/${vm}/task.sock`, owned: [{ kind: 'directory', path: join(sandboxesDir, vm) }] })
  t.ok(sandbox.trace.spans.some(({ name }) => name === 'ready'), 'its guest has said Ready')
  t.same([...store.records.keys()], ['a'], 'the VM has no record any more')
  t.same(await readdir(sandboxesDir), [vm])
  const waiting = sandbox.wait(forever)
  await running.kill()
  t.match(await waiting, { status: 137 })
  await sandbox.shutdown()
  t.same([...store.records.keys(), ...(await readdir(sandboxesDir)), ...sandboxes.all], [])
})

t.test('a warm VM that cannot be taken over is ended, and the sandbox starts cold', async (t) => {
  const { store, create, sandboxesDir, vm, pool } = await warm(t)
  const sandbox = await create('a')
  let refused = 0
  store.full = (record) => record.vm === vm && refused++ === 0
  await sandbox.start(forever)
  t.ok(refused > 0)
  t.match(store.read('a'), { state: 'ready', vm: undefined, owned: [{ kind: 'directory', path: join(sandboxesDir, 'a') }] })
  t.same([...store.records.keys()], ['a'])
  t.same([...(await readdir(sandboxesDir)), ...pool.all], ['a'])
  await sandbox.shutdown()
  t.same([...store.records.keys(), ...(await readdir(sandboxesDir))], [])
})

/** A sandboxer that finds these records, and a directory of each; those named in `missing` have none. */
async function found(t: Test, records: readonly Partial<SandboxRecord>[], changes: Partial<SandboxServices> = {}) {
  const world = await opened(t, changes)
  const { services, store, sandboxes, sandboxesDir } = world
  const directory = (id: string) => join(sandboxesDir, id)
  for (const record of records) {
    const { id } = { ...sandboxRecord(), ...record }
    await mkdir(directory(id))
    const owned = [{ kind: 'directory', path: directory(id) } as const]
    await store.write(id, JSON.stringify(sandboxRecord({ sandboxer: 'fake', owned, ...record })))
  }
  return { ...world, directory, left: () => recover(sandboxes, services, 2) }
}

t.test('what a sandboxer makes of the records it finds', async (t) => {
  const exit = { status: 0, atMs: 5, reason: 'stopped' }
  const { store, sandboxes, sandboxesDir, left } = await found(t, [
    { id: 'created' },
    { id: 'starting', state: 'starting' },
    { id: 'stopped', state: 'stopped', exit },
    { id: 'ready', state: 'ready' },
    { id: 'stopping', state: 'stopping' },
    { id: '_warm', state: 'warm', sandboxer: 'not configured any more' },
    { id: 'foreign', sandboxer: 'not configured' },
  ])
  store.records.set('damaged', '{"version":1,"id":')
  store.records.set('renamed', store.records.get('ready') ?? '')
  await mkdir(join(sandboxesDir, 'nobody’s'))
  t.match(await left(), [{ id: '_warm', state: 'warm' }], 'warm VMs are to be ended by whoever asked')
  t.same(store.quarantined.toSorted(), ['damaged', 'foreign', 'renamed'])
  t.same(sandboxes.all.map(({ id, state }) => `${id}: ${state.kind}`).toSorted(), ['created: created', 'ready: stopped', 'stopped: stopped', 'stopping: stopped'])
  t.strictSame(await sandboxes.get('stopped').wait(forever), exit)
  // A guest of this backend ends with its sandboxer.
  for (const id of ['ready', 'stopping']) {
    t.match(await sandboxes.get(id).wait(forever), { status: 137, reason: /ends with the sandboxer/ })
    t.match(store.read(id), { state: 'stopped', exit: { status: 137 } })
  }
  for (const id of ['ready', 'stopping', 'stopped']) t.same(store.read(id).owned, [], id)
  t.same((await readdir(sandboxesDir)).toSorted(), ['_warm', 'created'])
  await sandboxes.get('created').start(forever).then(() => t.fail('its directory is there'), (error) => t.match(error, { message: /step directory: .*EEXIST/ }))
})

t.test('after a restart of the machine no pid is believed, and nothing of before is left', async (t) => {
  const bystander = spawn('sleep', ['1000'], { stdio: 'ignore' })
  await once(bystander, 'spawn')
  t.teardown(() => bystander.kill('SIGKILL'))
  const stat = await processStat(bystander.pid ?? 0)
  const owned = [{ kind: 'process', name: 'qemu', pid: stat?.pid ?? 0, startTicks: stat?.startTicks ?? '' } as const]
  const exit = { status: 0, atMs: 5, reason: 'stopped' }
  const before = { bootId: 'of before', containers: ['c'], owned }
  const { store, sandboxes, sandboxesDir, left } = await found(t, [
    { ...before, id: 'ready', state: 'ready' },
    { ...before, id: 'created' },
    { ...before, id: 'stopped', state: 'stopped', exit },
    { ...before, id: '_warm', state: 'warm' },
    { ...before, id: 'claimed', state: 'ready', vm: '_claimed' },
  ])
  await rm(join(sandboxesDir, 'claimed'), { recursive: true })
  await mkdir(join(sandboxesDir, '_claimed'))
  t.match(await left(), [{ id: '_warm', bootId: 'b', state: 'warm' }])
  t.ok(await isAlive(stat?.pid ?? 0, stat?.startTicks), 'a process of this boot is another one')
  for (const id of ['ready', 'created', 'claimed']) {
    t.match(await sandboxes.get(id).wait(forever), { status: 137, reason: 'the machine was restarted' }, id)
    t.match(store.read(id), { bootId: 'b', state: 'stopped', owned: [], containers: [] })
    await sandboxes.get(id).shutdown()
  }
  t.strictSame(await sandboxes.get('stopped').wait(forever), exit)
  t.same(await readdir(sandboxesDir), ['_warm'])
})

t.test('processes whose record and directory were both removed are ended, and nobody else\'s', async (t) => {
  const { sandboxesDir, directory, left } = await found(t, [{ id: 'kept' }])
  const elsewhere = await mkdtemp('/tmp/life-')
  t.teardown(() => rm(elsewhere, { recursive: true }))
  const run = async (dir: string, id: string) => {
    await mkdir(join(dir, id), { recursive: true })
    const log = await open(join(dir, id, 'qemu.log'), 'a')
    const child = spawn('sleep', ['1000'], { env: { ...process.env, [MARKER]: `${id}/qemu` }, stdio: ['ignore', log.fd, log.fd] })
    t.teardown(() => child.kill('SIGKILL'))
    await log.close()
    return child
  }
  const wiped = await run(sandboxesDir, 'wiped')
  const others = [await run(sandboxesDir, 'kept'), await run(elsewhere, 'wiped'), await run(join(sandboxesDir, 'nested'), 'wiped')]
  for (const dir of [directory('wiped'), join(elsewhere, 'wiped'), directory('nested')]) await rm(dir, { recursive: true })
  await left()
  t.notOk(await isAlive(wiped.pid ?? 0, undefined))
  for (const { pid } of others) t.ok(await isAlive(pid ?? 0, undefined), 'of a sandbox on record, of another state directory')
})

t.test('after a restart of the machine a directory that resists costs its own sandbox and no other', async (t) => {
  const dir = await mkdtemp('/tmp/life-')
  t.teardown(() => rm(dir, { recursive: true }))
  // Nothing below a file can be removed: ENOTDIR.
  const sandboxesDir = join(dir, 'file')
  await writeFile(sandboxesDir, '')
  const { store, sandboxes, services } = sandboxesOf(t, { sandboxesDir })
  await store.write('before', JSON.stringify(sandboxRecord({ id: 'before', sandboxer: 'fake', bootId: 'of before', state: 'ready' })))
  await store.write('other', JSON.stringify(sandboxRecord({ id: 'other', sandboxer: 'fake' })))
  await recover(sandboxes, services, 2)
  t.equal(sandboxes.get('other').state.kind, 'created')
  t.match(await sandboxes.get('before').wait(forever), { status: 137, reason: 'the machine was restarted' })
  await t.rejects(sandboxes.get('before').shutdown(), { message: /ENOTDIR/ })
  await rm(sandboxesDir)
  await sandboxes.get('before').shutdown()
  t.same([...store.records.keys()], ['other'])
})
