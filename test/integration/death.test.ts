/**
 * Any process of a sandbox dies, or its agent is stopped, and takes its pod down at once: nothing waits for a guest that cannot
 * answer, nor for the beat that would find it dead, of which none falls into this test.
 */
import { rm, stat } from 'node:fs/promises'
import t from 'tap'
import { explain } from '#shared/errors.ts'
import { culprits } from '#host/sandbox/backend.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { connectServices, deathReason, signalProcess, until, waitMsMax } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'
import { exposed } from '#test/support/metrics.ts'
import type { Container } from '#test/cri/container.ts'

const hourMs = 3_600_000

const kuasar = await startKuasar({ sandboxer: { config: { ...sandboxerConfig, limits: { beat_ms: hourMs } } } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd } = kuasar
const { cri } = containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())

const well = await cri.runPod({ name: 'well' }, microvm)
const unaffected = await well.run(idle)

/** A volume of the pods that die. */
const volume = { hostPath: '/scratch/death', containerPath: '/volume' }
await kuasar.sh(`mkdir -p ${volume.hostPath}`)

/**
 * What a privileged process in a guest may do to it: everything but PID 1 gets SIGKILL (sysrq.rst, "i"). When it did is the
 * time of the file it makes, by the host's clock.
 */
const killEverything = 'echo >/volume/struck; echo i >/proc/sysrq-trigger'

/**
 * And to its agent alone: the kernel has a program of the container's run as the guest's own for a core dump (core(5), "piping
 * core dumps to a program"), where it sees the agent.
 */
const stopAgent = `echo '|/proc/%P/root/bin/busybox killall -STOP kuasar-agent' >/proc/sys/kernel/core_pattern; echo >/volume/struck; kill -SEGV $$`

interface Death {
  readonly of: string
  /** As it is counted */
  readonly counted: string
  /** Answers when it struck, if that is not before it was called. */
  readonly strike: (podId: string, container: Container) => Promise<number | void>
  readonly reason: RegExp
  readonly console?: RegExp
}

const deaths: readonly Death[] = [
  { of: 'the VMM', counted: 'vmm', strike: (id) => signalProcess(node, id, 'qemu', 'KILL'), reason: /^qemu was killed by SIGKILL/ },
  {
    of: 'virtiofsd',
    counted: 'virtiofsd',
    strike: (id) => signalProcess(node, id, 'virtiofsd', 'KILL'),
    reason: /^virtiofsd was killed by SIGKILL/,
  },
  {
    of: 'the virtiofsd for roots',
    counted: 'virtiofsd',
    strike: (id) => signalProcess(node, id, 'virtiofsd-roots', 'KILL'),
    reason: /^virtiofsd-roots was killed by SIGKILL/,
  },
  {
    of: 'vhost-device-vsock',
    counted: 'vsock',
    strike: (id) => signalProcess(node, id, 'vhost-device-vsock', 'KILL'),
    reason: /^vhost-device-vsock was killed by SIGKILL/,
  },
  {
    of: 'the agent',
    counted: 'guest',
    strike: (_, container) => struck(container, killEverything),
    reason: /^qemu ended: the guest powered off/,
    console: /the agent \(pid \d+\) was killed by signal 9 \(Killed\); powering off/,
  },
  {
    of: 'an agent that is stopped',
    counted: 'guest',
    strike: (_, container) => struck(container, stopAgent),
    reason: /^qemu ended: the guest powered off/,
    console: /the agent \(pid \d+\) was stopped by signal 19 \(Stopped \(signal\)\) and is still; powering off/,
  },
]

/** When the container's script has struck. */
async function struck(container: Container, script: string): Promise<number> {
  const file = node.path(`${volume.hostPath}/struck`)
  await rm(file, { force: true })
  // The exec gets no answer any more.
  void container.execSync(['sh', '-c', script]).catch(() => {})
  return until('the strike', async () => (await stat(file).catch(() => {}))?.mtimeMs)
}

const timed = <T>(answer: Promise<T>) => answer.then((value) => ({ value, atMs: Date.now() }))

const metrics = async () => exposed((await services.admin.Metrics({})).text)
const backend = 'kuasar-qemu'

t.test('a pod that started is counted, with the stages of its start', async (t) => {
  const { value } = await metrics()
  t.equal(value('kuasar_start_seconds_count', { backend, kind: 'cold' }), 1)
  for (const stage of ['network', 'launch', 'qemu', 'virtiofsd', 'vhost-device-vsock', 'guest', 'guest.kernel', 'guest.init', 'guest.agent-main', 'ready'])
    t.equal(value('kuasar_start_stage_seconds_count', { backend, kind: 'cold', stage }), 1, stage)
  for (const stage of ['prepare', 'crun-create']) t.equal(value('kuasar_container_stage_seconds_count', { backend, stage }), 1, stage)
  t.equal(value('kuasar_containers', { backend }), 1)
  t.equal(value('kuasar_containerd_up'), 1)
})

for (const { of, counted, strike, reason, console } of deaths) {
  t.test(`death of ${of}`, async (t) => {
    const before = await metrics()
    const pod = await cri.runPod({ name: 'dies', linux: { securityContext: { privileged: true } } }, microvm)
    const container = await pod.run({ ...idle, mounts: [volume], security: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } })
    const ended = timed(services.controller.Wait({ sandboxId: pod.id }, { timeoutMs: waitMsMax }))
    const exited = timed(container.exited())
    const calledMs = Date.now()
    const strikeMs = (await strike(pod.id, container)) ?? calledMs
    const wait = await ended
    t.equal(wait.value.exitStatus, 137, 'containerd’s Wait is answered')
    t.equal((await pod.status()).state, 'SANDBOX_NOTREADY', 'and from then on the pod is not ready')
    const exit = await exited
    t.equal(exit.value.exitCode, 255, 'containerd knows the container’s end')
    const sinceMs = ({ atMs }: { readonly atMs: number }) => Math.round(atMs - strikeMs)
    t.comment(`from the kill to Wait’s answer ${sinceMs(wait)} ms, to EXITED in CRI ${sinceMs(exit)} ms`)
    const died = await deathReason(node, pod.id)
    t.match(died, reason)
    t.comment(died)
    if (console !== undefined) {
      const { lines } = await services.admin.Console({ id: pod.id })
      t.match(lines.join('\n'), console, 'the console of the dead pod says so')
    }
    const after = await metrics()
    for (const label of culprits)
      t.equal((after.value('kuasar_deaths_total', { backend, of: label }) ?? 0) - (before.value('kuasar_deaths_total', { backend, of: label }) ?? 0), label === counted ? 1 : 0, `counted as of ${label}`)
    await pod.remove()
  })
}

t.test('death between a container’s Create and its Start: containerd forgets the task when it is told to', async (t) => {
  const end = new AbortController()
  const events = services.events.Subscribe({ filters: ['topic=="/tasks/create"'] }, { signal: end.signal })[Symbol.asyncIterator]()
  const created = events.next()
  const pod = await cri.runPod({ name: 'dies-early' }, microvm)
  const container = await pod.create(idle)
  const started = container.start().catch(explain)
  await created
  end.abort()
  await signalProcess(node, pod.id, 'qemu', 'KILL')
  t.match(await started, /failed to start containerd task/)
  t.match(await container.status(), { state: 'CONTAINER_EXITED', reason: 'StartError' })
  await until('its bundle is gone', async () => {
    const found = await kuasar.sh(`find /run/containerd/io.containerd.runtime.v2.task /var/lib/containerd/io.containerd.runtime.v2.task -name ${container.id}`)
    return found === ''
  })
  await pod.remove()
})

t.test('what is left', async (t) => {
  t.match(await unaffected.execSync(['echo', 'well']), { stdout: 'well\n' }, 'the other pod is untouched')
  t.equal((await metrics()).value('kuasar_guest_refusals_total'), 0, 'no guest of ours was refused anything')
  await well.remove()
  t.equal((await metrics()).value('kuasar_sandboxes'), 0)
  t.strictSame(await kuasar.leaks(), [], 'nothing')
})
