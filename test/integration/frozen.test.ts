/**
 * A VM that is frozen, or a helper of it, when containerd or the sandboxer starts must not hold up the node. No beat falls into
 * this test, for which one of these is found by its heartbeat is not soon enough.
 */
import { writeFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import type { Pod } from '#test/cri/pod.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { deathReason, pidOf, type SandboxProcess, stateOf, stopVm, until, workerOf } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'

const hourMs = 3_600_000
/** A guest that nobody ends holds CRI up for 100 s. */
const criReadyMsMax = 80_000

/** QEMU with a second control socket: the first is the sandboxer's, and takes one at a time. */
const path = '/scratch/qemu'
const controlOf = (pid: number | '$$') => `/scratch/${pid}.qmp`
const script = `#!/bin/sh\nexec qemu-system-x86_64 "$@" -qmp unix:${controlOf('$$')},server=on,wait=off\n`

const kuasar = await startKuasar({
  sandboxer: { config: { backends: { [microvm]: { ...sandboxerConfig.backends[microvm], path } }, limits: { beat_ms: hourMs } } },
  containerd: { sandboxers: [microvm], readyMsMax: criReadyMsMax },
})
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd
await writeFile(node.path(path), script, { mode: 0o755 })

const well = await cri.runPod({ name: 'well' }, microvm)
const unaffected = await well.run(idle)

const stop = (name: SandboxProcess) => async (pod: Pod) => void (await kuasar.sh(`kill -STOP ${await workerOf(node, pod.id, name)}`))

const ways = {
  'by a signal': stop('qemu'),
  'by its vsock': stop('vhost-device-vsock'),
  'by its volumes': stop('virtiofsd'),
  'by its roots': stop('virtiofsd-roots'),
  'without a signal': async (pod: Pod) => stopVm(node.path(controlOf(await pidOf(node, pod.id, 'qemu')))),
} as const

const reasons: Readonly<Record<keyof typeof ways, RegExp>> = {
  'by a signal': /: qemu \(pid \d+\) was stopped by a signal/,
  'by its vsock': /: vhost-device-vsock \(pid \d+\) was stopped by a signal/,
  'by its volumes': /: virtiofsd \(pid \d+\) was stopped by a signal/,
  'by its roots': /: virtiofsd-roots \(pid \d+\) was stopped by a signal/,
  'without a signal': /the VM is paused, not running|its VM was paused/,
}

/** A pod to be frozen in one of the ways, and what is to be known of it afterwards. */
async function victim(way: keyof typeof ways) {
  const pod = await cri.runPod({ name: `frozen-${way.replaceAll(' ', '-')}` }, microvm)
  const container = await pod.run(idle)
  const vmm = await pidOf(node, pod.id, 'qemu')
  const gone = async () => (await node.exec('test', ['-e', `/proc/${vmm}`])).exitCode === 1
  return { way, pod, container, gone, freeze: () => ways[way](pod) }
}

type Victim = Awaited<ReturnType<typeof victim>>

/** A stopped VMM, a paused VM and a stopped helper. */
const victims = () => Promise.all([victim('by a signal'), victim('without a signal'), victim('by its vsock')])

async function isDead(t: Test, { pod, container, way }: Victim): Promise<void> {
  const found = await deathReason(node, pod.id)
  t.match(found, reasons[way], `frozen ${way}: the record says why`)
  t.comment(found)
  await until('the pod is not ready', async () => (await stateOf(pod)) === 'SANDBOX_NOTREADY')
  t.match(await container.exited(), { state: 'CONTAINER_EXITED' })
}

async function othersAreWell(t: Test): Promise<void> {
  t.equal(await stateOf(well), 'SANDBOX_READY')
  t.match(await unaffected.status(), { state: 'CONTAINER_RUNNING' })
  t.match(await unaffected.execSync(['echo', 'well']), { stdout: 'well\n' })
}

t.test('while all run: one whose VMM or helper a signal has stopped is ended at once', async (t) => {
  for (const way of ['by a signal', 'by its vsock', 'by its volumes', 'by its roots'] as const) {
    const frozen = await victim(way)
    await frozen.freeze()
    await until(`frozen ${way}: its VM is gone`, frozen.gone)
    await isDead(t, frozen)
    await othersAreWell(t)
    await frozen.pod.remove()
  }
})

t.test('when the sandboxer starts: they are ended before anyone is served', async (t) => {
  const frozen = await victims()
  await sandboxer.stop('SIGKILL')
  for (const { freeze } of frozen) await freeze()
  const startMs = performance.now()
  await sandboxer.start()
  t.comment(`the sandboxer served after ${Math.round(performance.now() - startMs)} ms`)
  for (const { gone, way } of frozen) t.ok(await gone(), `frozen ${way}: its VM is gone`)
  for (const one of frozen) await isDead(t, one)
  await othersAreWell(t)
  for (const { pod } of frozen) await pod.remove()
})

t.test('when the sandboxer starts: one whose agent can answer without its file system is ended soon', async (t) => {
  const frozen = await victim('by its volumes')
  await sandboxer.stop('SIGKILL')
  await frozen.freeze()
  await sandboxer.start()
  await until('its VM is gone', frozen.gone)
  await isDead(t, frozen)
  await othersAreWell(t)
  await frozen.pod.remove()
})

t.test('when containerd starts: they are ended, CRI becomes ready, and the others are as they were', async (t) => {
  const frozen = await victims()
  await containerd.stop('SIGKILL')
  for (const { freeze } of frozen) await freeze()
  const startMs = performance.now()
  await containerd.start()
  t.comment(`CRI was ready after ${Math.round(performance.now() - startMs)} ms`)
  for (const { gone, way } of frozen) await until(`frozen ${way}: its VM is gone`, gone)
  for (const one of frozen) await isDead(t, one)
  await othersAreWell(t)
  for (const { pod } of frozen) await pod.remove()
  await well.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})
