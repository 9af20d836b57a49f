/** How long a deletion waits for the sandboxer to take a container back. */
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { Releases } from '#guest/services/releases.ts'
import { RuntimeError } from '#shared/errors.ts'
import { ownTimers } from '#test/support/own-timers.ts'
import { settled } from '#test/support/settled.ts'

function world(up: boolean) {
  const answer = Promise.withResolvers<void>()
  const failures: string[] = []
  const releases = new Releases({ release: () => answer.promise, up: () => up, failed: (containerId) => failures.push(containerId) })
  return { answer, failures, releases }
}

t.test('a sandboxer that is there is waited for, and no longer than containerd waits', async (t) => {
  using _ = ownTimers()
  const { answer, releases } = world(true)
  const released = releases.release('c', [])
  t.equal(await settled(released), false)
  answer.resolve()
  t.equal(await settled(released), true)

  const slow = world(true)
  const late = slow.releases.release('c', [])
  t.equal(await settled(late), false)
  mock.timers.tick(10_000)
  t.equal(await settled(late), true)
  const again = slow.releases.settled('c')
  t.equal(await settled(again), false, 'a new container of its name waits all the same')
  slow.answer.resolve()
  t.equal(await settled(again), true)
})

t.test('one that is away is not waited for, and a failure is told, and is over', async (t) => {
  const { answer, failures, releases } = world(false)
  await releases.release('c', [])
  t.equal(await settled(releases.settled('c')), false)
  t.equal(await settled(releases.settled('other')), true)
  answer.reject(new RuntimeError('UNAVAILABLE', 'away for a day'))
  await releases.settled('c')
  t.strictSame(failures, ['c'])
})

t.test('of two releases of one container, as after a create that failed meanwhile, both are waited for', async (t) => {
  const answers = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  let asked = 0
  const releases = new Releases({ release: async () => await answers[asked++]?.promise, up: () => false, failed: () => {} })
  await releases.release('c', [])
  await releases.release('c', [])
  for (const answer of answers) {
    t.equal(await settled(releases.settled('c')), false)
    answer.resolve()
    await turn()
  }
  t.equal(await settled(releases.settled('c')), true)
})
