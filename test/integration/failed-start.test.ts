/** A start that fails at any of its steps: one error that says where and why, and nothing left, with no call more. */
import { writeFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { podConfig } from '#test/cri/config.ts'
import { limitPod, type PodLimits, podCgroups } from '#test/node/pod-cgroup.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { connectServices } from '#test/support/faults.ts'
import { hangingInitramfs } from '#test/support/hanging-initramfs.ts'
import { startKuasar } from '#test/support/kuasar.ts'

const missing = '/nonexistent'
const emptyDisk = '/scratch/empty.disk'
const hangs = '/scratch/hangs.cpio'
/** The hanging guest prints more lines than an error shows. */
const hangsLines = 30
/** How long it may not say hello. */
const startMs = 20_000

const qemu = sandboxerConfig.backends['kuasar-qemu']

interface Failure {
  /** Keys of the backend's table that differ */
  readonly change: Readonly<Record<string, string>>
  readonly step: 'launch' | 'hello'
  readonly cause: RegExp
  readonly console?: RegExp
  /** Of the pod's cgroup */
  readonly limits?: PodLimits
}

const failures: Readonly<Record<string, Failure>> = {
  'kernel-missing': {
    change: { kernel: missing },
    step: 'launch',
    cause: /start qemu: qemu ended with code 1 before it was ready: .*\/nonexistent/,
  },
  'vmm-missing': { change: { path: missing }, step: 'launch', cause: /start qemu: .*\/nonexistent/ },
  'virtiofsd-missing': { change: { virtiofsd: missing }, step: 'launch', cause: /start virtiofsd(-roots)?: .*\/nonexistent/ },
  'vsock-missing': {
    change: { vhost_device_vsock: missing },
    step: 'launch',
    cause: /start vhost-device-vsock: .*\/nonexistent/,
  },
  'disk-empty': {
    change: { rootfs: emptyDisk },
    step: 'hello',
    cause: /qemu ended.*: the guest powered off/,
    console: /cannot mount \/dev\/vda/,
  },
  'agent-dies': {
    change: { kernel_parameters: 'kuasar.agent=/usr/bin/crun' },
    step: 'hello',
    cause: /qemu ended.*: the guest powered off/,
    console: /the agent \(pid \d+\) exited with status \d+; powering off/,
  },
  'memory-missing': {
    // Its kernel says what it does from its first moment on.
    change: { kernel_parameters: 'ignore_loglevel' },
    step: 'hello',
    cause: /qemu was killed by SIGKILL: the pod's cgroup ran out of memory; raise/,
    console: /\[ *\d+\.\d+\] /,
    // The kernel finds room in it, and a booted guest does not.
    limits: { memoryBytes: 192 * 1024 * 1024 },
  },
  'threads-missing': {
    change: {},
    step: 'launch',
    cause: /start [\w-]+: .*: the pod's cgroup lets in 16 processes and threads, and was full; raise the kubelet's podPidsLimit/,
    // The helpers have some thirteen of them.
    limits: { pids: 16 },
  },
}

const handler = (name: string): string => `kuasar-${name}`
const backends = {
  ...Object.fromEntries(Object.entries(failures).map(([name, { change }]) => [handler(name), { ...qemu, ...change }])),
  [handler('hangs')]: { ...qemu, initramfs: hangs },
}

const kuasar = await startKuasar({
  sandboxer: { config: { backends } },
  containerd: { sandboxers: Object.keys(backends) },
})
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())
await writeFile(node.path(emptyDisk), Buffer.alloc(1024 * 1024))
await writeFile(node.path(hangs), await hangingInitramfs(node, hangsLines))
const cgroups = podCgroups(node)

/** The error of a pod that does not start. The pod is not touched afterwards: containerd 2.1 makes no call either. */
async function errorOf(t: Test, name: string, limits: PodLimits = {}): Promise<string> {
  const config = podConfig({ name })
  const { cgroupParent } = config.linux
  await cgroups.make(cgroupParent)
  await limitPod(node, cgroupParent, limits)
  const starting: Promise<unknown> = cri.runtime.RunPodSandbox({ config, runtimeHandler: handler(name) })
  const error = await starting.catch((thrown: unknown) => thrown)
  t.strictSame((await services.admin.List({})).sandboxes, [], 'the sandboxer has forgotten it')
  await cgroups.remove(cgroupParent)
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
  return error instanceof Error ? error.message : 'it started'
}

for (const [name, { step, cause, console, limits }] of Object.entries(failures)) {
  t.test(name, async (t) => {
    const message = await errorOf(t, name, limits)
    const steps = message.match(/start failed at step \w+/g)
    t.strictSame(steps, [`start failed at step ${step}`], 'one error, which names the step')
    t.match(message, cause, 'and the cause')
    t.ok(message.split(missing).length <= 2, 'said once')
    const said = message.split("last lines of the guest's console:\n")[1] ?? 'nothing'
    if (console !== undefined) t.match(said, console, 'and what the console said')
    t.comment(message)
  })
}

t.test('an agent that never says hello', async (t) => {
  await sandboxer.stop()
  await sandboxer.start({ config: { backends, limits: { start_ms: startMs } } })
  const message = await errorOf(t, 'hangs')
  t.match(message, `start failed at step hello: the guest's agent did not say hello within ${startMs} ms`)
  t.strictSame(
    message.split('\n').slice(2).map((line) => line.trim()),
    Array.from({ length: 20 }, (_, index) => `line ${hangsLines - 19 + index}`),
    'with the last 20 lines of the console',
  )
})
