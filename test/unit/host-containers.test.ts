/**
 * What a sandbox makes of its guest's Prepare when the guest asks again, over the same link or over its next one; and of
 * its events, which reach containerd in order and once.
 */
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { PreparedContainer } from '#host/container/contract.ts'
import type { Containerd } from '#host/containerd/contract.ts'
import { Containers, EVENTS_MAX } from '#host/sandbox/containers.ts'
import { Ledger } from '#host/sandbox/ledger.ts'
import { parseRecord, type SandboxRecord } from '#host/sandbox/record.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { nowMs, Trace } from '#host/sandbox/trace.ts'
import { undo } from '#host/sandbox/undo.ts'
import { RuntimeError } from '#shared/errors.ts'
import { sandboxRecord } from '#test/support/record.ts'

/** As host/sandbox/containers.ts has them. */
const [PREPARES_MAX, CONTAINERS_MAX] = [64, 512]

const prepared: PreparedContainer = { spec: Buffer.from('{}'), storages: [], pidNamespace: { kind: 'private' } }

interface Parts {
  readonly record?: SandboxRecord
  readonly publish?: Containerd['publish']
  readonly release?: (id: string) => Promise<void>
}

async function containersOf(t: Test, { record = sandboxRecord(), publish = async () => {}, release = async () => {} }: Parts = {}) {
  const store = await DirectoryStore.open(t.testdir())
  const ledger = new Ledger(record, store, undo)
  const view = { id: 's', podUid: 'u', namespace: 'k8s.io', sharedDir: '/s', guestSharedDir: '/s', guestRootsDir: '/s', hugepagesMiB: 0, ownership: ledger }
  const asked: { readonly answer: () => void; readonly refuse: (error: Error) => void }[] = []
  const preparer = {
    prepare: (_: unknown, __: string, signal: AbortSignal) =>
      new Promise<PreparedContainer>((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason))
        asked.push({ answer: () => resolve(prepared), refuse: reject })
      }),
    release: (_: unknown, id: string) => release(id),
  }
  const containerd = {
    container: () => Promise.reject(new RuntimeError('NOT_FOUND', 'none')),
    containersOf: async () => [],
    snapshotMounts: async () => [],
    sandboxes: async () => [],
    tasks: async () => [],
    dropTask: async () => {},
    publish,
    reachable: async () => true,
    close() {},
  }
  const trace = new Trace()
  trace.startIsOver()
  return { containers: new Containers(view, ledger, preparer, containerd, trace), asked, ledger, store, trace }
}

/** Publishes events of a container that the record has, each named by its number. */
async function publisherOf(t: Test, publish: Containerd['publish'], record = sandboxRecord({ containers: ['c'] })) {
  const { signal } = new AbortController()
  const { containers, ledger, store } = await containersOf(t, { record, publish })
  const tell = (sequence: bigint) => containers.publish(sequence, 'c', { topic: `/${sequence}`, typeUrl: 'x', value: Buffer.alloc(0) }, signal)
  return { tell, containers, ledger, store }
}

t.test('asked twice at once, it is done once', async (t) => {
  const { containers, asked } = await containersOf(t)
  const { signal } = new AbortController()
  const both = [containers.prepare('c', signal), containers.prepare('c', signal)]
  asked[0]?.answer()
  t.strictSame(await Promise.all(both), [prepared, prepared])
  t.equal(asked.length, 1)
  t.strictSame(containers.ids, ['c'])
})

t.test('what fails is told to all who asked meanwhile, and not tried again for them', async (t) => {
  const { containers, asked } = await containersOf(t)
  const { signal } = new AbortController()
  const both = Promise.allSettled([containers.prepare('c', signal), containers.prepare('c', signal)])
  asked[0]?.refuse(new RuntimeError('UNIMPLEMENTED', 'a socket'))
  for (const outcome of await both) t.match(outcome, { status: 'rejected', reason: { code: 'UNIMPLEMENTED' } })
  t.equal(asked.length, 1)
  t.strictSame(containers.ids, [])
})

t.test('asked again and again, a container is prepared as often as its turn comes, and each other at once', async (t) => {
  const { containers, asked } = await containersOf(t)
  const { signal } = new AbortController()
  const first = containers.prepare('c', signal)
  asked[0]?.answer()
  await first
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const again = containers.prepare('c', signal)
  for (let turns = 0; turns < 20; turns++) await turn()
  t.equal(asked.length, 1)
  const other = containers.prepare('d', signal)
  t.equal(asked.length, 2)
  asked[1]?.answer()
  await other
  mock.timers.tick(250)
  await turn()
  t.equal(asked.length, 3)
  asked[2]?.answer()
  t.strictSame(await again, prepared)
  const gone = new AbortController()
  const given = containers.prepare('c', gone.signal)
  gone.abort(new RuntimeError('UNAVAILABLE', 'the connection is over'))
  await t.rejects(given, { code: 'UNAVAILABLE' })
  t.equal(asked.length, 3)
})

t.test('as many are prepared at once as may be, and as many held; there is room when one is through', async (t) => {
  const { containers, asked } = await containersOf(t)
  const { signal } = new AbortController()
  const preparing = Array.from({ length: PREPARES_MAX }, (_, index) => containers.prepare(`c${index}`, signal))
  await t.rejects(containers.prepare('beyond', signal), { code: 'RESOURCE_EXHAUSTED', message: /prepares 64 more; the limits are 512 and 64/ })
  t.equal(asked.length, PREPARES_MAX)
  for (const { answer } of asked) answer()
  await Promise.all(preparing)

  const ids = Array.from({ length: CONTAINERS_MAX }, (_, index) => `c${index}`)
  const full = await containersOf(t, { record: sandboxRecord({ containers: ids }) })
  await t.rejects(full.containers.prepare('beyond', signal), { code: 'RESOURCE_EXHAUSTED', message: /has 512 containers/ })
  t.same(full.asked, [])
  await full.containers.release('c0')
  const beyond = full.containers.prepare('beyond', signal)
  full.asked[0]?.answer()
  t.strictSame(await beyond, prepared)
})

t.test('a container whose prepare fails meanwhile is released all the same', async (t) => {
  const released: string[] = []
  const { containers } = await containersOf(t, { release: async (id) => void released.push(id) })
  const gone = new AbortController()
  const preparing = containers.prepare('c', gone.signal)
  const releasing = containers.release('c')
  await turn()
  t.same(released, [], 'it waits for the prepare')
  gone.abort(new RuntimeError('UNAVAILABLE', 'the connection is over'))
  await t.rejects(preparing, { code: 'UNAVAILABLE' })
  await releasing
  t.same(released, ['c'])
})

t.test('who asks again over its next link is not told of the first one’s end', async (t) => {
  const { containers, asked } = await containersOf(t)
  const [first, next] = [new AbortController(), new AbortController()]
  const lost = containers.prepare('c', first.signal)
  const again = containers.prepare('c', next.signal)
  first.abort(new RuntimeError('UNAVAILABLE', 'the connection is over'))
  await t.rejects(lost, { code: 'UNAVAILABLE' })
  while (asked.length < 2) await new Promise((wake) => setImmediate(wake))
  asked[1]?.answer()
  t.strictSame(await again, prepared)
  t.strictSame(containers.ids, ['c'])
})

t.test('a sandbox that ends tells both, and prepares no other', async (t) => {
  const { containers, asked } = await containersOf(t)
  const { signal } = new AbortController()
  const both = Promise.allSettled([containers.prepare('c', signal), containers.prepare('c', signal)])
  await containers.close()
  for (const outcome of await both) t.match(outcome, { status: 'rejected', reason: { code: 'CANCELLED' } })
  const late = containers.prepare('d', signal)
  t.equal(asked.length, 1)
  await t.rejects(late, { code: 'CANCELLED' })
})

t.test('a guest that says when crun ran is heard once for each Prepare, and not of a time before it', async (t) => {
  const { containers, asked, trace } = await containersOf(t)
  const { signal } = new AbortController()
  const prepare = async (id: string) => {
    const before = asked.length
    const preparing = containers.prepare(id, signal)
    while (asked.length === before) await turn()
    asked.at(-1)?.answer()
    await preparing
    return nowMs()
  }
  const spans = () => trace.spans.filter(({ name }) => name === 'guest.crun-create')
  containers.created('c', { startMs: nowMs(), endMs: nowMs() })
  t.strictSame(spans(), [], 'never prepared')

  const preparedAtMs = await prepare('c')
  const [startMs, endMs] = [preparedAtMs + 2, preparedAtMs + 5]
  for (let times = 0; times < 3; times++) containers.created('c', { startMs, endMs })
  t.strictSame(spans(), [{ name: 'guest.crun-create', startMs, endMs, source: 'guest', attributes: { container: 'c' } }])

  const beforeMs = nowMs()
  const againAtMs = await prepare('c')
  containers.created('c', { startMs: -1e13, endMs: -1e12 })
  const early = spans().at(-1)
  t.equal(spans().length, 2)
  t.ok((early?.startMs ?? 0) >= beforeMs && (early?.startMs ?? 0) <= againAtMs, 'drawn from the Prepare on')
  t.equal(early?.endMs, early?.startMs)

  await prepare('d')
  await containers.release('d')
  containers.created('d', { startMs, endMs })
  t.equal(spans().length, 2, 'and of none that is gone')
})

t.test('a prepare that hangs holds up no other container', async (t) => {
  const heard: string[] = []
  const { containers, asked } = await containersOf(t, { publish: async ({ topic }) => void heard.push(topic) })
  const { signal } = new AbortController()
  const held = containers.prepare('held', signal)
  const other = containers.prepare('other', signal)
  asked[1]?.answer()
  await other
  await containers.publish(1n, 'other', { topic: '/1', typeUrl: 'x', value: Buffer.alloc(0) }, signal)
  await containers.release('other')
  t.strictSame([heard, containers.ids, containers.isPreparing('held')], [['/1'], [], true])
  asked[0]?.answer()
  t.strictSame(await held, prepared)
  t.strictSame(containers.ids, ['held'])
})

t.test('events go one by one in the order they came, whatever the first waits for', async (t) => {
  const first = Promise.withResolvers<void>()
  const heard: string[] = []
  const { tell } = await publisherOf(t, async ({ topic }) => {
    heard.push(`begin ${topic}`)
    if (topic === '/1') await first.promise
    heard.push(`end ${topic}`)
  })
  const all = [tell(1n), tell(2n), tell(3n)]
  for (let turns = 0; turns < 20; turns++) await turn()
  t.strictSame(heard, ['begin /1'], 'the others wait for it')
  first.resolve()
  await Promise.all(all)
  t.strictSame(heard, ['begin /1', 'end /1', 'begin /2', 'end /2', 'begin /3', 'end /3'])
})

t.test('a number is handed on once, also by the sandboxer that reads the record next', async (t) => {
  const heard: string[] = []
  const publish = async ({ topic }: { readonly topic: string }) => void heard.push(topic)
  const { tell, ledger, store } = await publisherOf(t, publish)
  await Promise.all([tell(1n), tell(1n), tell(2n)])
  await tell(2n)
  await tell(1n)
  t.strictSame(heard, ['/1', '/2'])

  await ledger.save()
  const [saved] = await store.list()
  const next = await publisherOf(t, publish, parseRecord(saved?.text ?? '', 'the record'))
  await Promise.all([next.tell(1n), next.tell(2n), next.tell(3n)])
  t.strictSame(heard, ['/1', '/2', '/3'])
})

t.test('an event that containerd did not take, or that is not the sandbox’s, is not counted as handed on', async (t) => {
  let away = true
  const heard: string[] = []
  const { tell, containers, ledger } = await publisherOf(t, async ({ topic }) => {
    if (away) throw new RuntimeError('UNAVAILABLE', 'containerd is away')
    heard.push(topic)
  })
  await t.rejects(tell(1n), { code: 'UNAVAILABLE' })
  t.equal(ledger.record.published, '0')
  away = false
  const foreign = { topic: '/1', typeUrl: 'x', value: Buffer.alloc(0) }
  await t.rejects(containers.publish(1n, 'of-another', foreign, new AbortController().signal), { code: 'NOT_FOUND' })
  t.equal(ledger.record.published, '0')
  await Promise.all([tell(1n), tell(2n)])
  t.strictSame(heard, ['/1', '/2'], 'sent again, it is handed on')
  t.equal(ledger.record.published, '2')
})

t.test('as many events as may wait; one more is refused, and there is room when they are through', async (t) => {
  const gate = Promise.withResolvers<void>()
  let heard = 0
  const { tell } = await publisherOf(t, async () => {
    heard++
    await gate.promise
  })
  const waiting = Array.from({ length: EVENTS_MAX }, (_, index) => tell(BigInt(index + 1)))
  const beyond = BigInt(EVENTS_MAX + 1)
  await t.rejects(tell(beyond), { code: 'RESOURCE_EXHAUSTED' })
  gate.resolve()
  await Promise.all(waiting)
  t.equal(heard, EVENTS_MAX)
  await tell(beyond)
  t.equal(heard, EVENTS_MAX + 1)
})
