/** The client against stock containerd, and the specs of our unit tests against those it really writes. */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import { createContainerd } from '#host/containerd/client.ts'
import { parseSpec } from '#host/container/oci.ts'
import { planRootfs } from '#host/container/rootfs.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { defaultMounts, namespaces } from '#test/support/container-spec.ts'
import { idle, images, startKuasar } from '#test/support/kuasar.ts'

await using kuasar = await startKuasar()
const { node, containerd } = kuasar
const rpc = loadServices(loadProtos())
const client = createContainerd({ socketPath: node.path('/run/containerd/containerd.sock'), namespace: 'k8s.io', rpc })
const soon = () => AbortSignal.timeout(60_000)
const pod = await containerd.cri.runPod({ name: 'p' }, 'kuasar-fake')
const container = await pod.run({ ...idle, name: 'c', image: images.layers })

await t.test('records, snapshots, tasks and sandboxes', async (t) => {
  const record = await client.container(container.id, soon())
  t.match(record, { id: container.id, sandboxId: pod.id, snapshotter: 'overlayfs', runtime: 'io.containerd.kuasar-fake.v1' })
  t.equal(record.labels['io.kubernetes.container.name'], 'c')
  const mounts = await client.snapshotMounts(record.snapshotter, record.snapshotKey, soon())
  const rootfs = planRootfs(mounts, record.snapshotter, '/target')
  t.match(rootfs, { kind: 'overlay', upper: {} })
  t.equal(rootfs.kind === 'overlay' ? rootfs.lowerDirs.length : 0, 51)
  t.same((await client.containersOf(pod.id, soon())).map(({ id }) => id), [container.id])
  t.same(await client.containersOf('nobody', soon()), [])
  t.match(await client.tasks(soon()), [{ containerId: container.id, status: 'running' }])
  t.same(await client.sandboxes(soon()), [{ id: pod.id, sandboxer: 'kuasar-fake' }])
  await client.publish({ topic: '/tasks/oom', typeUrl: 'containerd.events.TaskOOM', value: Buffer.from([10, 1, 97]) }, soon())
  t.equal(await client.reachable(soon()), true)
})

await t.test('what is not there is NOT_FOUND, and a call that is given up is over', async (t) => {
  await t.rejects(client.container('nobody', soon()), { code: 'NOT_FOUND' })
  await t.rejects(client.snapshotMounts('overlayfs', 'nobody', soon()), { code: 'NOT_FOUND' })
  await t.rejects(client.container(container.id, AbortSignal.abort()), { code: 'CANCELLED' })
  t.equal(await client.reachable(AbortSignal.abort()), false)
})

await t.test('specs are as our fixtures have them', async (t) => {
  const path = node.path(`/run/containerd/io.containerd.runtime.v2.task/k8s.io/${container.id}`)
  t.equal(await readFile(`${path}/sandbox`, 'utf8'), pod.id)
  const spec = parseSpec(await readFile(`${path}/config.json`, 'utf8'), 'the spec')
  t.match(spec, { root: { path: 'rootfs' }, linux: { cgroupsPath: String } })
  t.same(spec.mounts, defaultMounts)
  t.same(spec.linux.namespaces, namespaces)
})

await t.test('it is there again after containerd, and says so', async (t) => {
  const controller = new AbortController()
  const connections = client.connections(controller.signal)
  t.same(await connections.next(), { done: false, value: 'up' })
  const down = connections.next()
  await containerd.stop('SIGKILL')
  t.same(await down, { done: false, value: 'down' })
  const up = connections.next()
  await t.rejects(client.sandboxes(soon()), { code: 'UNAVAILABLE' })
  t.equal(await client.reachable(soon()), false)
  const record = await client.container(container.id, AbortSignal.timeout(50)).catch((error: unknown) => error)
  t.match(record, { code: 'DEADLINE_EXCEEDED' }, 'a preparation waits for it, as long as anybody waits for the preparation')
  const asked = client.container(container.id, soon())
  await containerd.start()
  t.match(await asked, { id: container.id }, 'and has its answer')
  t.same(await up, { done: false, value: 'up' })
  t.match(await client.container(container.id, soon()), { id: container.id })
  controller.abort()
  t.same(await connections.next(), { done: false, value: 'down' })
  t.same(await connections.next(), { done: true, value: undefined })
})

await pod.remove()
client.close()
