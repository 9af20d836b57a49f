/** An OOM kill is told to containerd while the container lives, and before its Wait is answered: after that CRI reports a plain exit. */
import { writeFileSync } from 'node:fs'
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { OOM_PUBLISH_MS_MAX, OomWatch } from '#guest/container/oom.ts'
import type { TaskEvent } from '#guest/container/ports.ts'
import { Cgroup } from '#guest/runtime/cgroup.ts'
import { containersWorld } from '#test/support/containers-world.ts'
import { ownTimers } from '#test/support/own-timers.ts'
import { settled } from '#test/support/settled.ts'

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

t.test('a container that ended so is stopped, and its exit told, only when containerd has the kill', async (t) => {
  const events = slowEvents()
  await using world = containersWorld(t.testdir(), { publish: events.publish })
  const cgroup = world.cgroup('c')
  memoryFile(cgroup, 0)
  const container = await world.run('c')

  using _ = ownTimers()
  memoryFile(cgroup, 1)
  world.exit(container.init.state.pid, 137)
  t.equal(await settled(container.init.stopped), false, 'Wait has no answer')
  t.equal(container.init.state.kind, 'draining')
  t.strictSame(events.kinds(), ['create', 'start', 'oom'])
  events.take()
  t.equal(await settled(container.init.stopped), true)
  t.equal((await container.init.stopped).status, 137)
  t.strictSame(events.kinds(), ['create', 'start', 'oom', 'exit'])
  await world.containers.delete('c')
})
