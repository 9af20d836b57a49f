/** Three lists that part company: under stock containerd, with guests that run nothing. */
import { readdir } from 'node:fs/promises'
import t from 'tap'
import { images } from '#test/images/catalog.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { leaksSince, snapshot } from '#test/node/leaks.ts'
import { startNode } from '#test/node/node.ts'
import { poll } from '#test/node/poll.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import { rpc } from '#test/host/daemon.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'

const config = {
  sandboxer: { log_level: 'debug' },
  limits: { beat_ms: 1000 },
  backends: { 'kuasar-fake': { kind: 'fake-shared', processes: true } },
}
/** Two rounds apart, with room for a busy machine. */
const SETTLED_MS_MAX = 60_000

t.test('containerd and the sandboxer disagree', async (t) => {
  await using node = await startNode()
  await using sandboxer = await startSandboxer(node, { config })
  await using containerd = await startContainerd(node)
  const before = await snapshot(node)
  const { cri } = containerd
  const shared = (pod: string) => node.path(`/run/kuasar/sandboxes/${pod}/skeleton`)

  await t.test('a pod containerd has forgotten is ended', async (t) => {
    const kept = await cri.runPod({ name: 'kept' }, 'kuasar-fake')
    const lost = await cri.runPod({ name: 'lost' }, 'kuasar-fake')
    const connection = connectGrpc(node.path('/run/containerd/containerd.sock'), { namespace: 'k8s.io' })
    await connection.calls(rpc.store).Delete({ sandboxId: lost.id })
    connection.close()
    const sandboxes = () => readdir(node.path('/run/kuasar/sandboxes'))
    t.ok(await poll(SETTLED_MS_MAX, async () => ((await sandboxes()).includes(lost.id) ? undefined : true)), 'ended')
    t.same(await sandboxes(), [kept.id], 'the other lives')
    await kept.remove()
    await lost.remove()
  })

  await t.test('a task containerd has lost is ended in the guest, and its files are given back', async (t) => {
    const pod = await cri.runPod({ name: 'task' }, 'kuasar-fake')
    const kept = await pod.run({ image: images.busybox, command: ['kept'] })
    const lost = await pod.run({ image: images.busybox, command: ['lost'] })
    await containerd.stop('SIGKILL')
    await node.run('rm', ['-rf', `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${lost.id}`])
    await containerd.start()
    t.match(await lost.exited(), { state: 'CONTAINER_EXITED' }, 'as containerd has it')
    t.ok(await poll(SETTLED_MS_MAX, async () => ((await readdir(shared(pod.id))).includes(lost.id) ? undefined : true)), 'its files are gone')
    t.same(await readdir(shared(pod.id)), [kept.id])
    t.equal((await kept.status()).state, 'CONTAINER_RUNNING', 'the other runs')
    await pod.remove()
  })

  await t.test('a container removed while the sandboxer is away is given back', async (t) => {
    const pod = await cri.runPod({ name: 'away' }, 'kuasar-fake')
    const container = await pod.run({ image: images.busybox, command: ['x'] })
    await sandboxer.stop('SIGKILL')
    await container.stop()
    await container.remove()
    t.same(await readdir(shared(pod.id)), [container.id], 'nobody was there to do it')
    await sandboxer.start()
    t.ok(await poll(SETTLED_MS_MAX, async () => ((await readdir(shared(pod.id))).length === 0 ? true : undefined)), 'its files are gone')
    await pod.remove()
  })

  t.same(await leaksSince(node, before), [])
})
