/** What a sandbox makes of its guest's Prepare when the guest asks again: over the same link, or over its next one. */
import t, { type Test } from 'tap'
import type { PreparedContainer } from '#host/container/contract.ts'
import { Containers } from '#host/sandbox/containers.ts'
import { Ledger } from '#host/sandbox/ledger.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { Trace } from '#host/sandbox/trace.ts'
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
  return { containers: new Containers(view, ledger, preparer, containerd, new Trace()), asked }
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
