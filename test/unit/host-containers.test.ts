/** What a sandbox makes of its guest's Prepare when the guest asks again: over the same link, or over its next one. */
import t, { type Test } from 'tap'
import type { PreparedContainer } from '#host/container/contract.ts'
import { Containers } from '#host/sandbox/containers.ts'
import { Ledger } from '#host/sandbox/ledger.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { nowMs, Trace } from '#host/sandbox/trace.ts'
import { undo } from '#host/sandbox/undo.ts'
import { RuntimeError } from '#shared/errors.ts'
import { sandboxRecord } from '#test/support/record.ts'

const prepared: PreparedContainer = { spec: Buffer.from('{}'), storages: [], pidNamespace: { kind: 'private' } }

async function containersOf(t: Test) {
  const ledger = new Ledger(sandboxRecord(), await DirectoryStore.open(t.testdir()), undo)
  const view = { id: 's', namespace: 'k8s.io', sharedDir: '/s', guestSharedDir: '/s', guestRootsDir: '/s', hugepagesMiB: 0, ownership: ledger }
  const asked: { readonly answer: () => void }[] = []
  const preparer = {
    prepare: (_: unknown, __: string, signal: AbortSignal) =>
      new Promise<PreparedContainer>((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason))
        asked.push({ answer: () => resolve(prepared) })
      }),
    release: async () => {},
  }
  const containerd = {
    container: () => Promise.reject(new RuntimeError('NOT_FOUND', 'none')),
    containersOf: async () => [],
    snapshotMounts: async () => [],
    sandboxes: async () => [],
    tasks: async () => [],
    publish: async () => {},
    reachable: async () => true,
    close() {},
  }
  const trace = new Trace()
  trace.startIsOver()
  return { containers: new Containers(view, ledger, preparer, containerd, trace), asked, trace }
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

t.test('a sandbox that ends tells both', async (t) => {
  const { containers } = await containersOf(t)
  const { signal } = new AbortController()
  const both = Promise.allSettled([containers.prepare('c', signal), containers.prepare('c', signal)])
  await containers.close()
  for (const outcome of await both) t.match(outcome, { status: 'rejected', reason: { code: 'CANCELLED' } })
})

t.test('a guest that says when crun ran is heard once for each Prepare, and not of a time before it', async (t) => {
  const { containers, asked, trace } = await containersOf(t)
  const { signal } = new AbortController()
  const prepare = async (id: string) => {
    const preparing = containers.prepare(id, signal)
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
