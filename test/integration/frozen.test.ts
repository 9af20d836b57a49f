/** A VM that is frozen when containerd or the sandboxer starts must not hold up the node. */
import t from 'tap'
import { deathReason, pidOf, signalProcess, stateOf, until } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd

const well = await cri.runPod({ name: 'well' }, microvm)
const unaffected = await well.run(idle)

async function freeze(name: string) {
  const pod = await cri.runPod({ name }, microvm)
  const container = await pod.run(idle)
  const vmm = await pidOf(node, pod.id, 'qemu')
  const gone = async () => (await node.exec('test', ['-e', `/proc/${vmm}`])).exitCode === 1
  return { pod, container, gone, freeze: () => signalProcess(node, pod.id, 'qemu', 'STOP') }
}

t.test('when the sandboxer starts: it is ended before anyone is served', async (t) => {
  const { pod, container, gone, freeze: stop } = await freeze('frozen-1')
  await sandboxer.stop('SIGKILL')
  await stop()
  const startMs = performance.now()
  await sandboxer.start()
  t.comment(`the sandboxer served after ${Math.round(performance.now() - startMs)} ms`)
  t.ok(await gone(), 'its VM is gone')
  const reason = await deathReason(node, pod.id)
  t.match(reason, /frozen/, 'the record says why')
  t.comment(reason)
  await until('the pod is not ready', async () => (await stateOf(pod)) === 'SANDBOX_NOTREADY')
  t.match(await container.exited(), { exitCode: 255 })
  t.equal(await stateOf(well), 'SANDBOX_READY')
  t.match(await unaffected.execSync(['echo', 'well']), { stdout: 'well\n' })
  await pod.remove()
})

t.test('when containerd starts: it is ended, CRI becomes ready, and the others are as they were', async (t) => {
  const { pod, container, gone, freeze: stop } = await freeze('frozen-2')
  await containerd.stop('SIGKILL')
  await stop()
  const startMs = performance.now()
  await containerd.start()
  t.comment(`CRI was ready after ${Math.round(performance.now() - startMs)} ms`)
  await until('its VM is gone', gone)
  t.comment(await deathReason(node, pod.id))
  await until('the pod is not ready', async () => (await pod.status()).state === 'SANDBOX_NOTREADY')
  t.match(await container.exited(), { state: 'CONTAINER_EXITED' })
  t.equal(await stateOf(well), 'SANDBOX_READY')
  t.match(await unaffected.status(), { state: 'CONTAINER_RUNNING' })
  t.match(await unaffected.execSync(['echo', 'well']), { stdout: 'well\n' })
  await pod.remove()
  await well.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})
