/**
 * Pods on VMs that have booted before them: each is its pod's own in everything, no pod has another's, and whatever happens
 * to one costs its pod nothing but time.
 */
import { execa } from 'execa'
import t from 'tap'
import { podConfig } from '#test/cri/config.ts'
import type { Pod } from '#test/cri/pod.ts'
import { checkout } from '#test/node/paths.ts'
import { limitPod, podCgroups } from '#test/node/pod-cgroup.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { connectServices, debug, pidOf, recordOf, signalProcess, stateOf, until, waitMsMax } from '#test/support/faults.ts'
import { idle, inside, microvm, startKuasar } from '#test/support/kuasar.ts'
import { ask, cniTables, guestTables, server } from '#test/support/network.ts'

const backends = { ...sandboxerConfig.backends, [microvm]: { ...sandboxerConfig.backends[microvm], warm: 1 } }
await execa('make', ['container-tools'], { cwd: checkout })
const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer } = kuasar
const { cri } = kuasar.containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())

const DNS = { servers: ['10.1.2.3'], searches: ['warm.test'], options: ['ndots:3'] }
/** Seconds; a guest's clock may be read late on a loaded machine, and would be years off if it were not set. */
const CLOCK_SECONDS_MAX = 30

/** The id of the VM that waits, once one does. */
const waiting = (): Promise<string> =>
  until('a VM waits', async () => (await services.admin.List({}).catch(() => undefined))?.sandboxes.find(({ state }) => state === 'warm')?.id)

const vmOf = async ({ id }: Pod): Promise<string | undefined> => (await recordOf(node, id)).vm
const isThere = async (path: string): Promise<boolean> => (await node.exec('test', ['-e', path])).exitCode === 0
const runs = async (pid: number): Promise<boolean> => isThere(`/proc/${pid}/exe`)

/** Everything that bears a VM's id: its record, its directory and its cgroups. Its processes lie in those. */
async function remainsOf(vm: string): Promise<string[]> {
  const script = `ls -d /run/kuasar/ledger/${vm}.json /run/kuasar/sandboxes/${vm}; find /sys/fs/cgroup -name 'kuasar-${vm}'; grep -F '${vm}' /proc/self/mountinfo; true`
  return (await kuasar.sh(`{ ${script}; } 2>/dev/null`)).split('\n').filter((line) => line !== '')
}

async function spansOf({ id }: Pod): Promise<string[]> {
  return (await services.admin.Trace({ id })).spans.map(({ name }) => name)
}

await sandboxer.stop()
await sandboxer.start({ config: { backends } })

const pods: Pod[] = []

t.test('two pods in a row have a VM each, and each VM is its pod’s own', async (t) => {
  const vms: string[] = []
  for (const name of ['first', 'second']) {
    const vm = await waiting()
    const config = podConfig({ name, dns: DNS })
    await podCgroups(node).make(config.linux.cgroupParent)
    if (name === 'second') await limitPod(node, config.linux.cgroupParent, { pids: 64 })
    const pod = await cri.runPod(config, microvm)
    pods.push(pod)
    t.equal(await vmOf(pod), vm, 'the VM that waited')
    vms.push(vm)
    const spans = await spansOf(pod)
    for (const wanted of ['claim', 'tap', 'ready', 'guest.configured']) t.ok(spans.includes(wanted), `${wanted} is part of its start`)
    for (const early of ['launch', 'qemu', 'guest.kernel', 'guest.init']) t.notOk(spans.includes(early), `${early} was before it`)
    t.notOk(await isThere(`/run/kuasar/ledger/${vm}.json`), 'nobody else has a record of it')

    const forks = await pod.run({ command: ['sh', '-c', 'for i in $(seq 100); do sleep 1000 & done'] })
    t.match(await forks.exited(), { exitCode: name === 'second' ? 2 : 0 }, 'as many processes as its own cgroup lets in')
    t.equal((await forks.output()).includes("can't fork"), name === 'second')

    const container = await pod.run(server)
    t.equal(await inside(container, 'hostname'), name)
    t.equal(await inside(container, 'cat /etc/resolv.conf'), 'search warm.test\nnameserver 10.1.2.3\noptions ndots:3')
    const clocks = [await kuasar.sh('date +%s'), await inside(container, 'date +%s')].map(Number)
    t.ok(Math.abs((clocks[0] ?? 0) - (clocks[1] ?? 0)) <= CLOCK_SECONDS_MAX, `the clock: ${clocks.join(' and ')}`)
    t.strictSame(await guestTables(container), await cniTables(kuasar, pod), 'the network is CNI’s')
    const { ip = '' } = (await pod.status()).network ?? {}
    t.equal((await kuasar.sh(ask(ip))).trim(), name, 'the node reaches it')

    const { plan, cgroupProcs } = await recordOf(node, pod.id)
    for (const process of ['qemu', 'virtiofsd', 'vhost-device-vsock'] as const) {
      const cgroups = await kuasar.sh(`cat /proc/${await pidOf(node, pod.id, process)}/cgroup`)
      t.ok(cgroups.includes(plan.cgroupPath) && !cgroups.includes(vm), `${process} is in the pod’s cgroup`)
    }
    t.ok(cgroupProcs.every((file) => file.includes(plan.cgroupPath)))
  }
  t.not(vms[0], vms[1])
})

t.test('SIGKILL of the sandboxer: the pods are adopted, the VM that waited is ended and another takes its place', async (t) => {
  const vm = await waiting()
  const vmm = await pidOf(node, vm, 'qemu')
  await sandboxer.stop('SIGKILL')
  t.ok(await runs(vmm), 'it waits on')
  await sandboxer.start()
  for (const pod of pods) {
    t.equal(await stateOf(pod), 'SANDBOX_READY')
    const later = await pod.run({ command: ['sh', '-c', 'hostname; exit 3'] })
    t.match(await later.exited(), { exitCode: 3 })
    t.equal((await later.output()).trim(), pod.config.metadata?.name)
  }
  t.not(await waiting(), vm)
  t.notOk(await runs(vmm))
  t.strictSame(await remainsOf(vm), [])
})

t.test('a VM that dies while a pod claims it: the pod starts cold', async (t) => {
  const vm = await waiting()
  const vmm = await pidOf(node, vm, 'qemu')
  // Its answer to Hello goes nowhere.
  const held = await debug(node, [await pidOf(node, vm, 'vhost-device-vsock')])
  const starting = cri.runPod({ name: 'unlucky' }, microvm)
  await until('the claim', async () => !(await isThere(`/run/kuasar/ledger/${vm}.json`)))
  await kuasar.sh(`kill -KILL ${vmm}`)
  const pod = await starting
  t.equal(await vmOf(pod), undefined)
  t.ok((await spansOf(pod)).includes('guest.kernel'), 'it has booted')
  const container = await pod.run(idle)
  t.strictSame(await guestTables(container), await cniTables(kuasar, pod))
  t.strictSame(await remainsOf(vm), [])
  await pod.remove()
  await held.exited
})

t.test('a VM one of whose helpers is stopped while it waits: the next pod starts cold, at once', async (t) => {
  const vm = await waiting()
  await signalProcess(node, vm, 'vhost-device-vsock', 'STOP')
  await using pod = await cri.runPod({ name: 'helpless' }, microvm)
  t.equal(await vmOf(pod), undefined)
  t.notOk((await spansOf(pod)).includes('claim'), 'it was not claimed at all')
  t.match(await sandboxer.service.log(), /the start goes on without its warm VM.*vhost-device-vsock \(pid \d+\) was stopped by a signal/)
  t.strictSame(await remainsOf(vm), [])
})

t.test('a VM that dies while it waits: the next pod starts, and another takes its place', async (t) => {
  const vm = await waiting()
  await signalProcess(node, vm, 'qemu', 'KILL')
  await using pod = await cri.runPod({ name: 'next' }, microvm)
  t.not(await vmOf(pod), vm)
  t.not(await waiting(), vm)
  t.strictSame(await remainsOf(vm), [])
})

t.test('SIGKILL of the sandboxer while a pod claims a VM: all of it is undone', async (t) => {
  const vm = await waiting()
  const vmm = await pidOf(node, vm, 'qemu')
  const held = await debug(node, [await pidOf(node, vm, 'vhost-device-vsock')])
  const config = podConfig({ name: 'unborn' })
  const cgroups = podCgroups(node)
  await cgroups.make(config.linux.cgroupParent)
  const starting = cri.runtime.RunPodSandbox({ config, runtimeHandler: microvm }).catch((error: unknown) => error)
  await until('the claim', async () => !(await isThere(`/run/kuasar/ledger/${vm}.json`)))
  await sandboxer.stop('SIGKILL')
  t.match(await starting, { code: 'UNAVAILABLE' })
  t.ok(await runs(vmm))
  await sandboxer.start()
  t.notOk(await runs(vmm))
  t.strictSame(await remainsOf(vm), [])
  await cgroups.remove(config.linux.cgroupParent)
  await held.exited
})

t.test('SIGTERM: the VM that waits goes with the sandboxer, and nothing is left', async (t) => {
  // containerd has seen the sandboxer go, and tries again after a second or two.
  for (const pod of pods) t.equal(await stateOf(pod), 'SANDBOX_READY')
  for (const pod of pods) await pod.remove()
  const vm = await waiting()
  await sandboxer.service.stop('SIGTERM', waitMsMax)
  t.strictSame(await remainsOf(vm), [])
  await sandboxer.start({})
  t.strictSame(await kuasar.leaks(), [])
})
