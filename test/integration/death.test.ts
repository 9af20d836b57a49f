/** Any process of a sandbox dies, and takes its pod down at once: nothing waits for a guest that cannot answer. */
import t from 'tap'
import { connectServices, deathReason, signalProcess, until } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'
import type { Container } from '#test/cri/container.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd } = kuasar
const { cri } = containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())

const well = await cri.runPod({ name: 'well' }, microvm)
const unaffected = await well.run(idle)

/** What a privileged process in a guest may do to it: everything but PID 1 gets SIGKILL (sysrq.rst, "i"). */
const killEverything = 'echo i > /proc/sysrq-trigger'

interface Death {
  readonly of: string
  readonly strike: (podId: string, container: Container) => Promise<void>
  readonly reason: RegExp
  readonly console?: RegExp
}

const deaths: readonly Death[] = [
  { of: 'the VMM', strike: (id) => signalProcess(node, id, 'qemu', 'KILL'), reason: /^qemu was killed by SIGKILL/ },
  {
    of: 'virtiofsd',
    strike: (id) => signalProcess(node, id, 'virtiofsd', 'KILL'),
    reason: /^virtiofsd was killed by SIGKILL/,
  },
  {
    of: 'the virtiofsd for roots',
    strike: (id) => signalProcess(node, id, 'virtiofsd-roots', 'KILL'),
    reason: /^virtiofsd-roots was killed by SIGKILL/,
  },
  {
    of: 'vhost-device-vsock',
    strike: (id) => signalProcess(node, id, 'vhost-device-vsock', 'KILL'),
    reason: /^vhost-device-vsock was killed by SIGKILL/,
  },
  {
    of: 'the agent',
    // The exec dies with everything else.
    strike: async (_, container) => void container.execSync(['sh', '-c', killEverything]).catch(() => {}),
    reason: /^qemu ended: the guest powered off/,
    console: /the agent \(pid \d+\) was killed by signal 9 \(Killed\); powering off/,
  },
]

const timed = <T>(answer: Promise<T>) => answer.then((value) => ({ value, atMs: performance.now() }))

for (const { of, strike, reason, console } of deaths) {
  t.test(`death of ${of}`, async (t) => {
    const pod = await cri.runPod({ name: 'dies', linux: { securityContext: { privileged: true } } }, microvm)
    const container = await pod.run({ ...idle, security: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } })
    const ended = timed(services.controller.Wait({ sandboxId: pod.id }))
    const exited = timed(container.exited())
    const strikeMs = performance.now()
    await strike(pod.id, container)
    const wait = await ended
    t.equal(wait.value.exitStatus, 137, 'containerd’s Wait is answered')
    const exit = await exited
    t.equal(exit.value.exitCode, 255, 'containerd knows the container’s end')
    const sinceMs = ({ atMs }: { readonly atMs: number }) => Math.round(atMs - strikeMs)
    // Struck from inside, a death is counted from before the exec that brings it.
    t.comment(`from the kill to Wait’s answer ${sinceMs(wait)} ms, to EXITED in CRI ${sinceMs(exit)} ms`)
    await until('the pod is not ready', async () => (await pod.status()).state === 'SANDBOX_NOTREADY')
    const died = await deathReason(node, pod.id)
    t.match(died, reason)
    t.comment(died)
    if (console !== undefined) {
      const { lines } = await services.admin.Console({ id: pod.id })
      t.match(lines.join('\n'), console, 'the console of the dead pod says so')
    }
    await pod.remove()
  })
}

t.test('what is left', async (t) => {
  t.match(await unaffected.execSync(['echo', 'well']), { stdout: 'well\n' }, 'the other pod is untouched')
  await well.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing')
})
