/**
 * A machine as users have it: Debian with systemd on cgroup v2, its own containerd and units, and kuasar-ts installed as
 * docs/containerd.md says, word by word. KVM works in it, and is what pods get.
 */
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import type { Container } from '#test/cri/container.ts'
import { podConfig } from '#test/cri/config.ts'
import type { Pod } from '#test/cri/pod.ts'
import { idle, microvm } from '#test/support/kuasar.ts'
import { installAsDocumented } from './documented.ts'
import { startLab } from './lab.ts'
import { podSlices, slicePath } from './slice.ts'

/** Of docs/kubernetes.md's overhead, what is not the VM's own. */
const OVERHEAD_MIB = 400 - 160

const lab = await startLab((line) => t.comment(line))
t.teardown(() => lab[Symbol.asyncDispose]())
const cri = await lab.cri(podSlices(lab))

/** Properties of a unit. */
async function show(unit: string, ...names: string[]): Promise<Record<string, string>> {
  const text = await lab.sh(`systemctl show ${unit} ${names.map((name) => `-p ${name}`).join(' ')}`)
  return Object.fromEntries(text.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
}

const mainPid = async (unit: string): Promise<string> => (await show(unit, 'MainPID'))['MainPID'] ?? ''

/** As the kubelet's systemd driver names a pod's. */
const slice = slicePath(`kubepods-pod${randomUUID().replaceAll('-', '_')}.slice`)
const runPod = (name: string, cgroupParent: string): Promise<Pod> => {
  const config = podConfig({ name })
  return cri.runPod({ ...config, linux: { ...config.linux, cgroupParent } }, microvm)
}

/** pid, command and cgroup of everything that belongs to a sandbox, or to any when none is named. */
async function processesOf(id = ''): Promise<string[]> {
  const text = await lab.sh(`for p in /proc/[0-9]*; do
    tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -q "^KUASAR_PROCESS=${id}" || continue
    echo "\${p#/proc/} $(cat $p/comm) $(cut -d: -f3 $p/cgroup)"
  done`)
  return text.split('\n').filter((line) => line !== '')
}

t.test('what this machine is', async (t) => {
  t.equal(await lab.sh('stat -f -c %T /sys/fs/cgroup'), 'cgroup2fs')
  t.match(await lab.sh('cat /sys/fs/cgroup/cgroup.controllers'), /cpu.*memory.*pids/)
  t.equal(await lab.sh('cat /proc/1/comm'), 'systemd')
  t.match(await lab.sh('modprobe -a kvm_amd vhost_vsock ipvlan macvlan 8021q && ls /dev/kvm /dev/vhost-vsock'), '/dev/kvm\n/dev/vhost-vsock')
})

t.test('installed as documented, the sandboxer is ready before containerd starts', async (t) => {
  await installAsDocumented(lab)
  await lab.sh('systemctl stop containerd && systemctl daemon-reload && systemctl enable kuasar-sandboxer && systemctl start containerd')
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
  t.same(await processesOf(), [])
  // The directory for records that could not be read is always there.
  t.equal(await lab.sh('find /sys/fs/cgroup -name "kuasar-*" -not -name "*.service"; find /run/kuasar/sandboxes /run/kuasar/ledger -mindepth 1 -not -path /run/kuasar/ledger/unreadable; grep /run/kuasar/ /proc/mounts || true'), '')
})
