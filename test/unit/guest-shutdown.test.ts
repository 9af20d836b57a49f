/** Shutdown: TERM, a grace that nothing makes longer, KILL, what is left to be told, and then the power. */
import { mock } from 'node:test'
import t from 'tap'
import { HostLink } from '#guest/link/link.ts'
import { Network } from '#guest/network/apply.ts'
import { createAgentService } from '#guest/services/agent.ts'
import { silentLog } from '#shared/log.ts'
import { type ContainersWorld, containersWorld, held } from '#test/support/containers-world.ts'
import { ownTimers } from '#test/support/own-timers.ts'
import { settled } from '#test/support/settled.ts'
import { rpc } from '#test/support/task-client.ts'

const nothing = async () => {}
const link = new HostLink({
  rpc, log: silentLog, writeBytesMax: 1, dial: () => Promise.reject(new Error('nobody is there')), hello: () => ({}), configure: nothing, lost: () => {}, ready: nothing,
})

/** The answer to Shutdown. */
function shutdown({ containers, os }: ContainersWorld, graceMs: number): Promise<unknown> {
  const service = createAgentService({ containers, os, link, rpc, network: new Network('/nowhere', '/nowhere', os.processes), log: silentLog, podCgroup: '/nowhere', names: { agent: {} } })
  const context = { path: '', metadata: {}, deadlineMs: undefined, signal: new AbortController().signal }
  return Promise.resolve(service.Shutdown?.({ graceMillis: String(graceMs) }, context))
}

t.test('what does not end in its grace is killed, and the power goes after the answer', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.run('c')
  using _ = ownTimers()
  const answer = shutdown(world, 1000)
  t.equal(await settled(answer), false)
  mock.timers.tick(999)
  t.equal(await settled(answer), false)
  t.notOk(world.killed('c'))
  mock.timers.tick(1)
  t.equal(await settled(answer), false, 'its exit is waited for')
  t.ok(world.killed('c'))
  world.exit(container.init.state.pid, 137)
  t.equal(await settled(answer), true)
  t.notOk(world.os.poweredOff)
  mock.timers.tick(1000)
  t.ok(world.os.poweredOff)
})

t.test('what ends sooner is not waited for, and what never does not for ever', async (t) => {
  await using world = containersWorld(t.testdir())
  const ends = await world.run('ends')
  using _ = ownTimers()
  const first = shutdown(world, 1000)
  world.exit(ends.init.state.pid, 0)
  t.equal(await settled(first), true)
  await world.run('stuck')
  const second = shutdown(world, 0)
  t.ok(world.killed('stuck'), 'no grace was given')
  t.equal(await settled(second), false)
  mock.timers.tick(1000)
  t.equal(await settled(second), true)
})

t.test('a container whose start hangs has no longer grace than the others', async (t) => {
  await using world = containersWorld(t.testdir())
  const { reached, go } = held(world, 'start hangs')
  const starting = world.run('hangs')
  await reached()
  await world.run('other')
  using _ = ownTimers()
  const answer = shutdown(world, 1000)
  t.equal(await settled(answer), false)
  mock.timers.tick(1000)
  t.equal(await settled(answer), false)
  t.strictSame([world.killed('hangs'), world.killed('other')], [true, true])
  go()
  await starting
  mock.timers.tick(1000)
  await answer
})
