/**
 * A machine as users have it: Debian with systemd on cgroup v2, its own containerd and units, and kuasar-ts installed as
 * docs/containerd.md says, word by word. KVM works in it, and is what pods get.
 */
import t, { type Test } from 'tap'
import { parseRecord } from '#host/sandbox/record.ts'
import type { Container } from '#test/cri/container.ts'
import type { Pod } from '#test/cri/pod.ts'
import { until } from '#test/support/faults.ts'
import { idle, microvm } from '#test/support/kuasar.ts'
import { ask, cniTables, guestTables, server } from '#test/support/network.ts'
import { followAsDocumented } from './documented.ts'
import { startLab } from './lab.ts'
import { processesIn, remainsIn } from './remains.ts'
import { newPodSlice, podSlices } from './slice.ts'

/** Of docs/kubernetes.md's overhead, what is not the VM's own. */
const OVERHEAD_MIB = 380 - 256

const lab = await startLab((line) => t.comment(line))
t.teardown(() => lab[Symbol.asyncDispose]())
const cri = await lab.cri(podSlices(lab))

/** Properties of a unit. */
async function show(unit: string, ...names: string[]): Promise<Record<string, string>> {
  const text = await lab.sh(`systemctl show ${unit} ${names.map((name) => `-p ${name}`).join(' ')}`)
  return Object.fromEntries(text.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
}

const mainPid = async (unit: string): Promise<string> => (await show(unit, 'MainPID'))['MainPID'] ?? ''

const slice = newPodSlice()
const runPod = (name: string, cgroupParent: string): Promise<Pod> => cri.runPod({ name, linux: { cgroupParent } }, microvm)
const processesOf = (id: string): Promise<string[]> => processesIn(lab, id)

t.test('what this machine is', async (t) => {
  t.equal(await lab.sh('stat -f -c %T /sys/fs/cgroup'), 'cgroup2fs')
  t.match(await lab.sh('cat /sys/fs/cgroup/cgroup.controllers'), /cpu.*memory.*pids/)
  t.equal(await lab.sh('cat /proc/1/comm'), 'systemd')
  t.match(await lab.sh('modprobe -a kvm_amd vhost_vsock ipvlan macvlan 8021q && ls /dev/kvm /dev/vhost-vsock'), '/dev/kvm\n/dev/vhost-vsock')
})

t.test('installed as documented, the sandboxer is ready before containerd starts', async (t) => {
  await followAsDocumented(lab)
  const sandboxer = await show('kuasar-sandboxer', 'ActiveState', 'SubState', 'Type', 'ExecMainStartTimestampMonotonic', 'ActiveEnterTimestampMonotonic')
  const containerd = await show('containerd', 'ActiveState', 'ExecMainStartTimestampMonotonic')
  t.match(sandboxer, { ActiveState: 'active', SubState: 'running', Type: 'notify' })
  t.match(containerd, { ActiveState: 'active' })
  const [forked, ready, after] = [sandboxer['ExecMainStartTimestampMonotonic'], sandboxer['ActiveEnterTimestampMonotonic'], containerd['ExecMainStartTimestampMonotonic']].map(Number)
  t.ok(Number(forked) < Number(ready) && Number(ready) <= Number(after), `forked ${forked}, said ready ${ready}, containerd started ${after}`)
  t.match(await lab.sh('ctr plugins ls'), /io\.containerd\.sandbox\.controller\.v1\s+kuasar-qemu|kuasar-qemu/)
  const log = await lab.sh('journalctl -u kuasar-sandboxer -o cat')
  t.match(log, /sandboxer serves/)
  t.notMatch(log, /TCG/, 'nothing is emulated here')
})

let pod: Pod
let container: Container

t.test('a pod of the systemd driver’s runs under KVM, in its slice', async (t) => {
  pod = await runPod('lab', slice)
  container = await pod.run(idle)
  t.match(await container.execSync(['sh', '-c', 'echo from inside; exit 3']), { stdout: 'from inside\n', exitCode: 3 })
  const ended = await pod.run({ command: ['sh', '-c', 'uname -r; exit 7'] })
  t.match(await ended.exited(), { exitCode: 7 })
  t.match(await ended.output(), /^6\./, 'the image’s kernel, not the machine’s')
  const processes = await processesOf(pod.id)
  const commands = new Set(processes.map((line) => line.split(' ')[1] ?? ''))
  t.same([...commands].toSorted(), ['qemu-system-x86', 'vhost-device-vs', 'virtiofsd'])
  const cgroup = `${slice}/kuasar-${pod.id}`
  t.same(processes.filter((line) => !line.endsWith(` ${cgroup}`)), [], `all of them in ${cgroup}`)
  const qemu = processes.find((line) => line.includes(' qemu-'))?.split(' ')[0] ?? ''
  t.equal(await lab.sh(`cat /proc/${qemu}/oom_score_adj`), '0', 'the OOM killer may take a guest, not the sandboxer')
  t.equal(await lab.sh(`cat /proc/$(systemctl show -P MainPID kuasar-sandboxer)/oom_score_adj`), '-999')
  t.match(await lab.sh(`tr '\\0' ' ' </proc/${qemu}/cmdline`), /-accel kvm .*-cpu host/)
  t.not(await lab.sh(`ls -l /proc/${qemu}/fd | grep -c kvm-vcpu`), '0', 'KVM gave it its processors')
})

t.test('the slice’s controllers count and limit the VM', async (t) => {
  t.match(await lab.sh(`cat /sys/fs/cgroup${slice}/cgroup.controllers`), /cpu.*memory/)
  const used = Number(await lab.sh(`cat /sys/fs/cgroup${slice}/memory.current`))
  t.ok(used > 50 * 2 ** 20, `${used} bytes in the slice's account`)
  const { linux } = await pod.stats()
  t.ok(Number(linux?.cpu?.usageCoreNanoSeconds?.value) > 0, 'CRI has the pod’s CPU time')
  t.ok(Number(linux?.memory?.workingSetBytes?.value) > 50 * 2 ** 20, 'and its memory')
  // What RuntimeClass's overhead must cover besides the VM's memory, which alone is shared (bench/overhead.ts).
  const pids = (await processesOf(pod.id)).map((line) => line.split(' ')[0])
  const sums = await lab.sh(`cat ${pids.map((pid) => `/proc/${pid}/smaps_rollup`).join(' ')} | awk '/^Pss_(Anon|File)/ {own += $2} /^Pss_Shmem/ {vm += $2} END {print own, vm}'`)
  const [own = 0, vm = 0] = sums.split(' ').map((kib) => Math.round(Number(kib) / 1024))
  t.comment(`VMM and helpers: ${own} MiB, touched of the VM's memory: ${vm} MiB`)
  t.ok(own > 0 && own < OVERHEAD_MIB, `VMM and helpers take ${own} MiB`)
})

/** The same guest, the same containerd, and the pod is as it was. */
async function unharmed(t: Test, before: readonly string[], containerd: string): Promise<void> {
  t.same(await processesOf(pod.id), before, 'the guest’s processes are the same')
  t.equal(await mainPid('containerd'), containerd, 'containerd was not restarted')
  t.equal((await pod.status()).state, 'SANDBOX_READY')
  t.match(await container.execSync(['echo', 'well']), { stdout: 'well\n' })
}

t.test('systemctl restart under a running pod', async (t) => {
  const [before, containerd, sandboxer] = [await processesOf(pod.id), await mainPid('containerd'), await mainPid('kuasar-sandboxer')]
  await lab.sh('systemctl restart kuasar-sandboxer')
  t.not(await mainPid('kuasar-sandboxer'), sandboxer)
  await unharmed(t, before, containerd)
})

t.test('SIGKILL under a running pod', async (t) => {
  const [before, containerd, sandboxer] = [await processesOf(pod.id), await mainPid('containerd'), await mainPid('kuasar-sandboxer')]
  await lab.sh('systemctl kill --signal=KILL kuasar-sandboxer; sleep 1; systemctl start kuasar-sandboxer')
  t.not(await mainPid('kuasar-sandboxer'), sandboxer)
  await unharmed(t, before, containerd)
})

t.test('systemctl stop leaves guests and containerd alone', async (t) => {
  const [before, containerd] = [await processesOf(pod.id), await mainPid('containerd')]
  await lab.sh('systemctl stop kuasar-sandboxer')
  t.same(await processesOf(pod.id), before)
  t.match(await container.execSync(['echo', 'meanwhile']), { stdout: 'meanwhile\n' }, 'containerd and the guest go on without it')
  await lab.sh('systemctl start kuasar-sandboxer')
  await unharmed(t, before, containerd)
})

t.test('systemctl restart containerd under a running pod', async (t) => {
  const before = await processesOf(pod.id)
  await lab.sh('systemctl restart containerd')
  await unharmed(t, before, await mainPid('containerd'))
})

t.test('removed, it leaves nothing', async (t) => {
  await pod.remove()
  t.same(await remainsIn(lab), [])
})

t.test('a pod on a VM that has booted before it, under KVM', async (t) => {
  await lab.sh(`sed -i 's/^warm = 0$/warm = 1/' /etc/kuasar/config.toml && systemctl restart kuasar-sandboxer`)
  const vm = await until('a VM waits', async () => /^(_warm-\w+).*\bwarm\b/m.exec((await lab.exec(['kuasarctl', 'list'])).stdout)?.[1])
  const waiting = await processesOf(`${vm}/`)
  t.not(waiting.length, 0)
  pod = await runPod('warm', newPodSlice())
  t.match(parseRecord(await lab.readFile(`/run/kuasar/ledger/${pod.id}.json`), pod.id), { vm, state: 'ready' }, 'the VM that waited')
  container = await pod.run(server)
  t.match(await container.execSync(['hostname']), { stdout: 'warm\n' })
  t.strictSame(await guestTables(container), await cniTables(lab, pod), 'the network is CNI’s')
  t.equal(await lab.sh(ask((await pod.status()).network?.ip ?? '')), 'warm', 'the node reaches it')
  const claimed = await processesOf(`${vm}/`)
  t.same(claimed.map((line) => line.split(' ')[0]), waiting.map((line) => line.split(' ')[0]), 'the same processes')
  t.same(claimed.filter((line) => !line.endsWith(` ${pod.config.linux?.cgroupParent}/kuasar-${pod.id}`)), [], 'in the pod’s cgroup')
  const qemu = claimed.find((line) => line.includes(' qemu-'))?.split(' ')[0] ?? ''
  t.match(await lab.sh(`tr '\\0' ' ' </proc/${qemu}/cmdline`), /-accel kvm .*-cpu host/)
  await pod.remove()
  await lab.sh(`sed -i 's/^warm = 1$/warm = 0/' /etc/kuasar/config.toml && systemctl restart kuasar-sandboxer`)
  await until('the next VM, which waited or booted, is gone', async () => (await remainsIn(lab)).length === 0)
})
