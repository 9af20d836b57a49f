/** The sandboxes of a node together: how many there may be, and that none waits for another. */
import { mkdtemp, rm } from 'node:fs/promises'
import t from 'tap'
import { AgentLink } from '#host/link/agent.ts'
import { beat } from '#host/sandbox/beat.ts'
import { unobserved, type Heartbeat } from '#host/sandbox/observer.ts'
import { poll } from '#test/node/poll.ts'
import { rpc, sandboxesOf } from '#test/support/sandboxes.ts'

/** As SPECIFICATION.md has it. */
const SANDBOXES_MAX = 4096

t.test('so many sandboxes, and one more once one has gone', async (t) => {
  const { store, sandboxes, create } = sandboxesOf(t)
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

t.test('a state directory below which a socket’s address would be too long is refused by name', async (t) => {
  // An address has 108 bytes: a directory's, "/s/", a name of 16 and a NUL.
  const longest = `/${'d'.repeat(87)}`
  t.match(await sandboxesOf(t, { sandboxesDir: longest }).create('s'), { id: 's' })
  const { store, sandboxes, create } = sandboxesOf(t, { sandboxesDir: `${longest}d` })
  await t.rejects(create('s'), { code: 'FAILED_PRECONDITION', message: /^sandboxer\.state_dir is too long: .* would exceed 108 bytes/ })
  t.same([...sandboxes.all, ...store.records.keys()], [])
})

t.test('guests that do not answer their heartbeat hold up nobody else’s, however many they are', async (t) => {
  const sandboxesDir = await mkdtemp('/tmp/beat-')
  t.teardown(() => rm(sandboxesDir, { recursive: true }))
  const silent = 20
  const { promise: freed, resolve: free } = Promise.withResolvers<void>()
  const heard: number[] = []
  let guests = 0
  const beats: Heartbeat[] = []
  const { sandboxes, services, containerd, create } = sandboxesOf(t, {
    sandboxesDir,
    observer: { ...unobserved, heartbeat: (_, result) => void beats.push(result) },
    agent: (dial) => {
      const guest = guests++
      const late = async (port: number, signal: AbortSignal) => {
        if (guest < silent) await freed
        heard.push(guest)
        return dial(port, signal)
      }
      return new AgentLink(late, rpc, 'test')
    },
  })
  Object.assign(services.limits, { busyMs: 60_000 })
  for (let index = 0; index <= silent; index++) await (await create(`s${index}`)).start(new AbortController().signal)
  const over = new AbortController()
  const beating = beat(sandboxes, services, (signal) => containerd.connections(signal), over.signal)
  await poll(60_000, async () => (heard.length > 0 ? true : undefined))
  t.same(heard, [silent], 'the one that answers was asked')
  t.same(sandboxes.all.filter(({ state }) => state.kind !== 'ready').map(({ id }) => id), [], 'before any of the others was given up')
  t.ok(await poll(60_000, async () => (beats.includes('late') ? true : undefined)), 'a beat that found them silent is told')
  t.same([...new Set(beats)].toSorted(), ['answered', 'late'])
  free()
  await poll(10_000, async () => (heard.length > silent ? true : undefined))
  over.abort()
  await beating
  for (const sandbox of sandboxes.all) await sandbox.shutdown()
})
