/** Containers that were deleted, and a containerd that was killed before it had written their exit down. */
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { DEPARTED_MAX } from '#guest/container/departed.ts'
import { containersWorld, streams } from '#test/support/containers-world.ts'

t.test('one that was deleted is there for a containerd that comes back and asks by Connect, until it is deleted once more', async (t) => {
  await using world = containersWorld(t.testdir())
  const { containers } = world
  const end = { status: 72, atNanos: 5n }
  const run = async (id: string) => {
    const container = await world.create(id, streams(id))
    await containers.start(container)
    world.exit(container.init.state.pid, end.status)
    await container.init.stopped
    return await containers.delete(id)
  }
  const unknown = { code: 'NOT_FOUND' }
  const { signal } = new AbortController()
  const output = async (id: string) => {
    const endpoint = await world.streams.find(`${id}-stdout`, signal)
    return endpoint.kind === 'output' ? endpoint.output.attach(signal).next() : 'none'
  }

  const first = await run('c')
  t.throws(() => containers.get('c'), unknown, 'nobody else is told of it')
  await t.rejects(containers.delete('c'), unknown)
  const early = output('c')
  const back = containers.recall('c')
  t.match(containers.get('c').init.state, { kind: 'deleted', exit: end })
  t.strictSame(await back.init.stopped, end, 'Wait')
  t.equal(await early, undefined, 'a stream that was opened before is at its end')
  t.equal(await output('c'), undefined, 'and one that is opened now')
  await t.rejects(containers.kill(back, '', 9, true), unknown, 'Kill')
  t.strictSame(containers.all(), [], 'the sandboxer is not told that it runs')
  const told = world.kinds()
  t.strictSame(await containers.delete('c'), first, 'Delete')
  t.strictSame(world.kinds(), told, 'is no event a second time')
  t.throws(() => containers.recall('c'), unknown)

  await run('again')
  containers.recall('again')
  const anew = await world.create('again', streams('again'))
  t.equal(containers.get('again'), anew, 'a new one of its id')
  t.equal(await Promise.race([output('again'), turn('none yet')]), 'none yet', 'has streams of its own')

  for (let n = 0; n <= DEPARTED_MAX; n++) await run(`many${n}`)
  t.throws(() => containers.recall('many0'), unknown, `${DEPARTED_MAX} are remembered`)
  t.ok(containers.recall('many1'))
})
