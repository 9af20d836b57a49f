/**
 * SIGKILL of the sandboxer at every durable write of a pod's and a container's life, under stock containerd. Whatever
 * the moment, the next sandboxer and CRI's own removal leave nothing: containerd 2.1 forgets a pod whose Start failed, so
 * some of it is reconciliation's work.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { explain } from '#shared/errors.ts'
import type { Cri } from '#test/cri/client.ts'
import { images } from '#test/images/catalog.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { leaksSince, snapshot, type Snapshot } from '#test/node/leaks.ts'
import { startNode, type TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { poll } from '#test/node/poll.ts'
import { sandboxerConfigPath, startSandboxer } from '#test/node/sandboxer.ts'

/** A life that passes without a crash ends the walk. */
const WRITES_MAX = 80
/** From SIGKILL to the news of it. */
const EXIT_MS_MAX = 5_000
/** For a reconciliation on a busy machine. */
const SETTLED_MS_MAX = 90_000

/** What went wrong, if anything did. */
async function live(cri: Cri): Promise<string | undefined> {
  try {
    const pod = await connected(() => cri.runPod({ name: 'crash' }, 'kuasar-fake'))
    const container = await pod.run({ image: images.busybox, command: ['x'] })
    await container.stop()
    await container.remove()
    await pod.remove()
    return undefined
  } catch (error) {
    return explain(error)
  }
}

/** containerd tries a sandboxer that was away again after a second or two, and until then says so at once. */
async function connected<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!explain(error).includes('Error while dialing')) throw error
      await sleep(200)
    }
  }
}

/** Everything CRI still knows, removed as the kubelet would: again and again until it works. */
async function removeAll({ runtime }: Cri): Promise<void> {
  await poll(SETTLED_MS_MAX, async () => {
    const { items } = await runtime.ListPodSandbox({})
    for (const { id } of items) {
      await runtime.StopPodSandbox({ podSandboxId: id }).catch(() => {})
      await runtime.RemovePodSandbox({ podSandboxId: id }).catch(() => {})
    }
    return items.length === 0 ? true : undefined
  })
}

/** What is left once everybody has had time. A pod's own cgroup is the kubelet's to remove, as soon as ours below it is gone. */
async function leftovers(node: TestNode, before: Snapshot): Promise<string[]> {
  let left: string[] = []
  await poll(SETTLED_MS_MAX, async () => {
    await node.exec('sh', ['-c', 'rmdir /sys/fs/cgroup/kubepods/pod* /sys/fs/cgroup/*/kubepods/pod*'])
    left = await leaksSince(node, before, 1)
    return left.length === 0 ? true : undefined
  })
  return left
}

for (const when of ['before', 'after'] as const)
  t.test(`killed ${when} each write`, async (t) => {
    await using node = await startNode()
    const config = {
      sandboxer: { log_level: 'debug' },
      limits: { beat_ms: 1000, settle_ms: 2000 },
      backends: { 'kuasar-fake': { kind: 'fake-shared', processes: true } },
    }
    await using sandboxer = await startSandboxer(node, { config })
    await using containerd = await startContainerd(node)
    await live(containerd.cri)
    const before = await snapshot(node)
    let survived = false
    for (let at = 1; !survived && at <= WRITES_MAX; at++) {
      await sandboxer.stop('SIGKILL')
      // Whose presence will say that this one serves.
      await node.run('rm', ['-f', '/run/kuasar/admin.sock'])
      const doomed = await node.start({
        name: `doomed-${at}`,
        command: 'node',
        args: [`${inside.checkout}/test/host/crashing.ts`, '--config', sandboxerConfigPath],
        env: { CRASH_AT: String(at), CRASH_WHEN: when },
        ready: async () => (await node.exec('test', ['-S', '/run/kuasar/admin.sock'])).exitCode === 0,
      })
      const trouble = await live(containerd.cri)
      survived = trouble === undefined
      if (!survived) await Promise.race([doomed.exited, sleep(EXIT_MS_MAX)])
      if (!survived && doomed.running) t.fail(`it lives, and yet: ${trouble}`)
      await doomed.stop('SIGKILL')
      await sandboxer.start()
      await removeAll(containerd.cri)
      t.same(await leftovers(node, before), [], `write ${at}${survived ? ': one more than a life has' : ''}`)
    }
    t.ok(survived, 'every write was met')
    t.equal(await live(containerd.cri), undefined, 'and pods work')
  })
