/** What nobody says is found by the sandboxer's beat: what containerd has lost or forgotten is ended, a clock that is off is set. */
import { rm } from 'node:fs/promises'
import t from 'tap'
import type { Container } from '#test/cri/container.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { connectServices, pidOf, recordOf, stateOf, until } from '#test/support/faults.ts'
import { idle, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

/** Where containerd keeps what it needs to find a task again. */
const bundles = '/run/containerd/io.containerd.runtime.v2.task/k8s.io'

const kuasar = await startKuasar({ sandboxer: { config: { ...sandboxerConfig, limits: { beat_ms: 5_000 } } } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())

/** All containers of a pod in one PID namespace, so that each shows what the others run. */
const shared = { security: { namespaceOptions: { pid: 'POD' } } } as const

const pod = await cri.runPod({ name: 'kept' }, microvm)
const watches = await pod.run({ name: 'watches', ...idle, ...shared })

const sees = async (word: string): Promise<boolean> => (await inside(watches, 'ps')).includes(word)
const hasMounts = async (container: Container): Promise<boolean> =>
  (await kuasar.sh('cat /proc/self/mountinfo')).includes(container.id)

t.test('a task that containerd lost is killed in its guest, and its root file system given back', async (t) => {
  const lost = await pod.run({ name: 'lost', command: ['sleep', '4242'], ...shared })
  await until('it runs', () => sees('sleep 4242'))
  await containerd.stop('SIGKILL')
  await rm(node.path(`${bundles}/${lost.id}`), { recursive: true })
  await containerd.start()
  t.match(await lost.exited(), { state: 'CONTAINER_EXITED' }, 'containerd takes it for ended')
  await until('it is killed', async () => !(await sees('sleep 4242')))
  const reconciled = new RegExp(`"reconciled".*"${lost.id}"`)
  t.match(await sandboxer.service.log(), reconciled, 'which was the sandboxer’s doing')
  await until('it is released', async () => !(await recordOf(node, pod.id)).containers.includes(lost.id))
  await until('its mounts are gone', async () => !(await hasMounts(lost)))
  t.match(await watches.status(), { state: 'CONTAINER_RUNNING' }, 'its neighbour runs on')
  await lost.remove()
})

t.test('a container removed while the sandboxer was down is given back when it returns', async (t) => {
  const removed = await pod.run({ name: 'removed', command: ['sleep', '4243'], ...shared })
  await sandboxer.stop('SIGKILL')
  await removed.stop(0)
  await removed.remove()
  t.ok(await hasMounts(removed), 'nobody could unmount it')
  await sandboxer.start()
  await until('it is released', async () => !(await recordOf(node, pod.id)).containers.includes(removed.id))
  await until('its mounts are gone', async () => !(await hasMounts(removed)))
  t.equal(await stateOf(pod), 'SANDBOX_READY')
  t.notOk(await sees('sleep 4243'))
})

t.test('a clock that is off is set', async (t) => {
  const off = await pod.run({ name: 'off', ...idle, security: { capabilities: { addCapabilities: ['SYS_TIME'] } } })
  const isRight = async () => Math.abs(Number(await inside(off, 'date +%s')) - Date.now() / 1000) < 600
  await inside(off, 'date -s "@$(($(date +%s) + 3600))"')
  t.ok(await until('it is an hour less', isRight))
  await inside(off, 'date -s "@$(($(date +%s) - 3600))"')
  t.ok(await until('it is an hour more', isRight))
  await off.stop(0)
})

t.test('a pod that containerd forgot is ended', async (t) => {
  const forgotten = await cri.runPod({ name: 'forgotten' }, microvm)
  const orphan = await forgotten.run(idle)
  const vmm = await pidOf(node, forgotten.id, 'qemu')
  await services.store.Delete({ sandboxId: forgotten.id })
  await until('the sandboxer has let go of it', async () => {
    const { sandboxes } = await services.admin.List({})
    return sandboxes.every(({ id }) => id !== forgotten.id)
  })
  t.equal((await node.exec('test', ['-e', `/proc/${vmm}`])).exitCode, 1, 'its VM is gone')
  t.equal(await stateOf(pod), 'SANDBOX_READY', 'the other pod is untouched')
  await orphan.exited()
  await forgotten.remove()
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})
