/** An OOM kill is told to containerd while the container lives, and before its Wait is answered: after that CRI reports a plain exit. */
import { writeFileSync } from 'node:fs'
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { execInput, execOutput, initInput, initOutput } from '#guest/config.ts'
import { Containers } from '#guest/container/containers.ts'
import { OOM_PUBLISH_MS_MAX, OomWatch } from '#guest/container/oom.ts'
import type { TaskEvent } from '#guest/container/ports.ts'
import type { Exit } from '#guest/container/state.ts'
import { Cgroup } from '#guest/runtime/cgroup.ts'
import { PodPidNamespace } from '#guest/runtime/pod-pid.ts'
import { Storages } from '#guest/storage/storages.ts'
import { Submounts } from '#guest/storage/submounts.ts'
import { StreamRegistry } from '#guest/streams/registry.ts'
import { silentLog } from '#shared/log.ts'
import { createFakeOs } from '#shared/os/fake.ts'

/** memory.events as the kernel writes it (Documentation/admin-guide/cgroup-v2.rst). */
const memoryEvents = (kills: number) => `low 0\nhigh 0\nmax 9\noom ${kills}\noom_kill ${kills}\noom_group_kill 0\n`

const memoryFile = (dir: string, kills: number) => writeFileSync(`${dir}/memory.events`, memoryEvents(kills))

/** A containerd that has an event only when the test says so. */
function slowEvents() {
  const heard: TaskEvent[] = []
  const taken = Promise.withResolvers<void>()
  const publish = (event: TaskEvent) => {
    heard.push(event)
    return event.kind === 'oom' ? taken.promise : Promise.resolve()
  }
  return { heard, kinds: () => heard.map(({ kind }) => kind), publish, take: () => taken.resolve() }
}

/** Whether it has come; whoever could have settled it without a timer has had every chance. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  let came = false
  void promise.then(() => (came = true))
  for (let turns = 0; turns < 20; turns++) await turn()
  return came
}

/** The timers of what runs meanwhile are the test's, and move when it says so. */
function ownTimers(): Disposable {
  mock.timers.enable({ apis: ['setTimeout'] })
  return { [Symbol.dispose]: () => mock.timers.reset() }
}

function watchOf(t: Test, kills: number) {
  const dir = t.testdir({ 'memory.events': memoryEvents(kills) })
  const events = slowEvents()
  const watch = new OomWatch('c', new Cgroup(dir), events)
  t.teardown(() => watch[Symbol.dispose]())
  return { dir, events, watch }
}

t.test('without a kill nothing is told, and nobody waits', async (t) => {
  const { events, watch } = watchOf(t, 0)
  await watch.reported()
  t.strictSame(events.heard, [])
})

t.test('a kill is reported when containerd has it', async (t) => {
  using _ = ownTimers()
  const { events, watch } = watchOf(t, 1)
  const reported = watch.reported()
  t.strictSame(events.heard, [{ kind: 'oom', containerId: 'c' }])
  t.equal(await settled(reported), false, 'published, and not taken')
  events.take()
  t.equal(await settled(reported), true)
  t.equal(await settled(watch.reported()), true)
  t.equal(events.heard.length, 1, 'one kill is told once')
})

t.test('a containerd that does not take it is waited for so long, and no longer', async (t) => {
  using _ = ownTimers()
  const { watch } = watchOf(t, 1)
  const reported = watch.reported()
  mock.timers.tick(OOM_PUBLISH_MS_MAX - 1)
  t.equal(await settled(reported), false)
  mock.timers.tick(1)
  t.equal(await settled(reported), true)
})

t.test('a kill in a container that lives on is told when it happens, and each later one too', async (t) => {
  const { dir, events, watch } = watchOf(t, 0)
  const told = async (times: number) => {
    while (events.heard.length < times) await turn()
  }
  memoryFile(dir, 1)
  await told(1)
  memoryFile(dir, 2)
  await told(2)
  events.take()
  await watch.reported()
  t.strictSame(events.kinds(), ['oom', 'oom'])
})

const unused = () => Promise.reject(new Error('nobody asks for it'))
const bootTimeNanos = () => 0n

t.test('a container that ended so is stopped, and its exit told, only when containerd has the kill', async (t) => {
  await using os = createFakeOs()
  const dir = t.testdir({ cgroup: { c: {} } })
  const cgroup = `${dir}/cgroup/c`
  memoryFile(cgroup, 0)
  const events = slowEvents()
  const ended = Promise.withResolvers<Exit>()
  const exits = { claim: () => ended.promise }
  const containers = new Containers({
    runtime: { create: async () => 7, start: async () => {}, exec: unused, pause: unused, resume: unused, update: unused, delete: async () => {} },
    reaper: exits,
    preparer: {
      prepare: async () => ({ spec: Buffer.from(JSON.stringify({ root: { path: dir }, process: { args: ['a'], cwd: '/' } })), storages: [], pidNamespace: { kind: 'private' } }),
      release: async () => {},
    },
    events,
    storages: new Storages(os.mounts, dir),
    submounts: new Submounts(os.mounts),
    podPid: new PodPidNamespace(['false'], exits, bootTimeNanos),
    io: { os, streams: new StreamRegistry(), consoleDir: dir },
    initPolicy: { output: initOutput, input: initInput },
    execPolicy: { output: execOutput, input: execInput },
    log: silentLog,
    bootTimeNanos,
    bundleRoot: dir,
    cgroupRoot: dir,
    podCgroup: '/cgroup',
    spec: { hosts: '/hosts', hostname: '/hostname', resolvConf: '/resolv.conf', shm: '/shm', hugepageSizes: [] },
  })
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  const container = await containers.create({ id: 'c', bundle: '/b', stdio }, new AbortController().signal)
  await containers.start(container)

  const exit = { status: 137, atNanos: 5n }
  using _ = ownTimers()
  memoryFile(cgroup, 1)
  ended.resolve(exit)
  t.equal(await settled(container.init.stopped), false, 'Wait has no answer')
  t.equal(container.init.state.kind, 'draining')
  t.strictSame(events.kinds(), ['create', 'start', 'oom'])
  events.take()
  t.equal(await settled(container.init.stopped), true)
  t.strictSame(await container.init.stopped, exit)
  t.strictSame(events.kinds(), ['create', 'start', 'oom', 'exit'])
  await containers.delete('c')
})
