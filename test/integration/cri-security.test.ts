/** Who a container's process is and what it may do, as the guest's kernel says it (proc_pid_status(5)). */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import t from 'tap'
import type { MessageIn } from '#shared/rpc/any.ts'
import { podConfig, type ContainerOptions } from '#test/cri/config.ts'
import { images, microvm, startKuasar } from '#test/support/kuasar.ts'

type Security = MessageIn<'runtime.v1.LinuxContainerSecurityContext'>

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { cri } = kuasar.containerd

/** Parameters that belong to a namespace of a pod, and two of which there is one in a kernel. */
const sysctls = {
  'kernel.shm_rmid_forced': '1',
  'fs.mqueue.msg_max': '100',
  'net.ipv4.ip_local_port_range': '20000\t20999',
  'net/core/somaxconn': '321',
  'vm.max_map_count': '262144',
}
/** A privileged container needs a privileged pod. */
const pod = await cri.runPod(podConfig({ name: 'security', linux: { sysctls, securityContext: { privileged: true } } }), microvm)

/** What a script prints in a container of its own; it may fail on the way. */
async function said(security: Security, script: string, more: ContainerOptions = {}): Promise<string> {
  const container = await pod.run({ command: ['sh', '-c', script], security, ...more })
  await container.exited(120_000)
  const text = (await container.output()).trimEnd()
  await container.remove()
  return text
}

/** Fields of the process's own status, in the order asked. */
const status = (...fields: readonly string[]) => fields.map((field) => `grep ^${field}: /proc/self/status`).join('; ')
/** A mask as the kernel prints it. */
const mask = (...bits: readonly number[]) => bits.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n).toString(16).padStart(16, '0')
/** Source: linux/capability.h. */
const CAP = { CHOWN: 0, NET_BIND_SERVICE: 10, NET_ADMIN: 12, SYS_ADMIN: 21 } as const
/** containerd lists those that it has itself, by name: bits above the last that this kernel knows are in no list. */
const every = /^CapEff:\s+(\w+)$/m.exec(await readFile(`/proc/${kuasar.containerd.service.pid}/status`, 'utf8'))?.[1]
const has = (text: string, bit: number) => ((BigInt(`0x${/^CapEff:\s+(\w+)/m.exec(text)?.[1]}`) >> BigInt(bit)) & 1n) === 1n
const value = (id: number) => ({ value: String(id) })

t.test('user, group, supplemental groups', async (t) => {
  const user = { runAsUser: value(1000), runAsGroup: value(3000), supplementalGroups: ['5000'] }
  const show = 'id -u; id -g; id -G; touch /tmp/mine; stat -c %u:%g /tmp/mine'
  const [merged, strict, named, image, unknown] = await Promise.all([
    said(user, show),
    said({ ...user, supplementalGroupsPolicy: 'Strict' }, show),
    said({ runAsUsername: 'app' }, show),
    said({}, 'id -u; pwd; echo $GREETING', { image: images.config }),
    said({ runAsUser: value(4321) }, show),
  ])
  t.equal(merged, '1000\n3000\n3000 2000 5000\n1000:3000', 'with the groups of the image\'s /etc/group')
  t.equal(strict, '1000\n3000\n3000 5000\n1000:3000', 'without them')
  t.match(named, /^1000\n1000\n1000 2000\n/)
  t.equal(image, '1000\n/srv/app\nhello from the image', 'the image\'s USER, WORKDIR and ENV')
  t.match(unknown, /^4321\n0\n/, 'a user that no file names')
})

t.test('capabilities', async (t) => {
  const show = status('CapEff', 'CapBnd', 'CapAmb')
  const with_ = (capabilities: Security['capabilities'], more: Security = {}) => said({ ...more, ...(capabilities === undefined ? {} : { capabilities }) }, show)
  const [plain, changed, none, all, ambient] = await Promise.all([
    with_(undefined),
    with_({ addCapabilities: ['NET_ADMIN'], dropCapabilities: ['CHOWN'] }),
    with_({ addCapabilities: ['NET_BIND_SERVICE'], dropCapabilities: ['ALL'] }),
    with_({ addCapabilities: ['ALL'] }),
    with_({ addAmbientCapabilities: ['NET_BIND_SERVICE'] }, { runAsUser: value(1000) }),
  ])
  t.strictSame([has(plain, CAP.CHOWN), has(plain, CAP.NET_ADMIN), has(plain, CAP.SYS_ADMIN)], [true, false, false])
  t.strictSame([has(changed, CAP.CHOWN), has(changed, CAP.NET_ADMIN)], [false, true])
  t.match(none, `CapEff:\t${mask(CAP.NET_BIND_SERVICE)}\nCapBnd:\t${mask(CAP.NET_BIND_SERVICE)}`)
  t.match(all, `CapEff:\t${every}`)
  // containerd 2.1 clears the ambient set of every container, whatever CRI asks for (containerd pull request 6153).
  t.match(ambient, /CapAmb:\t0{16}/)
})

t.test('seccomp, no_new_privs, privileged', async (t) => {
  const profile = '/var/lib/kubelet/seccomp/no-mkdir.json'
  await mkdir(kuasar.node.path('/var/lib/kubelet/seccomp'), { recursive: true })
  const rule = { names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 95 }
  await writeFile(kuasar.node.path(profile), JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule] }))
  const show = `${status('Seccomp', 'NoNewPrivs')}; unshare -U true 2>&1 && echo unshared; mkdir /tmp/made 2>&1 && echo made`
  const alone = `${status('CapEff', 'Seccomp')}; mkdir /m && mount -t tmpfs none /m && echo mounted; echo 1 >/proc/sys/vm/overcommit_memory && echo set; mkdir /sys/fs/cgroup/x && echo grouped; ls /dev | tr '\\n' ' '`
  const [plain, standard, local, unconfined, privileged] = await Promise.all([
    said({}, show),
    said({ seccomp: { profileType: 'RuntimeDefault' }, noNewPrivs: true }, show),
    said({ seccomp: { profileType: 'Localhost', localhostRef: profile } }, show),
    said({ seccomp: { profileType: 'Unconfined' }, noNewPrivs: true }, show),
    said({ privileged: true }, alone),
  ])
  t.match(plain, /^Seccomp:\t0\nNoNewPrivs:\t0\nunshared\nmade$/)
  t.match(standard, /^Seccomp:\t2\nNoNewPrivs:\t1\nunshare: .*Operation not permitted\nmade$/)
  t.match(local, /^Seccomp:\t2\nNoNewPrivs:\t0\nunshared\nmkdir: .*Operation not supported$/)
  t.match(unconfined, /^Seccomp:\t0\nNoNewPrivs:\t1\nunshared\nmade$/)
  t.match(privileged, new RegExp(`^CapEff:\t${every}\nSeccomp:\t0\nmounted\nset\ngrouped\n`))
})

t.test('what a container may see and write of the kernel', async (t) => {
  const show = [
    'cat /proc/keys | wc -c',
    'ls /sys/firmware | wc -l',
    'touch /proc/sys/vm/swappiness 2>&1',
    'echo 1 2>&1 >/proc/sys/vm/swappiness',
    'touch /root/x 2>&1',
    'touch /dev/shm/x && echo shm',
    'mkdir /sys/fs/cgroup/x 2>&1',
    'cat /proc/self/cgroup',
    'mknod /dev/disk b 254 0 2>&1 && head -c 1 /dev/disk 2>&1',
  ].join('; ')
  const masked = await said({ readonlyRootfs: true, maskedPaths: ['/proc/keys', '/sys/firmware'], readonlyPaths: ['/proc/sys'] }, show)
  t.strictSame(masked.split('\n').map((line) => line.replace(/^.*: (?=[A-Z])/, '')), [
    '0', '0', 'Read-only file system', 'Read-only file system', 'Read-only file system', 'shm', 'Read-only file system', '0::/', 'Operation not permitted',
  ])
})

t.test('kernel parameters are the pod\'s own', async (t) => {
  const show = 'cd /proc/sys; cat kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_local_port_range net/core/somaxconn vm/max_map_count'
  t.equal(await said({}, show), '1\n100\n20000\t20999\n321\n262144')
})

t.test('kernel parameters that cannot be', async (t) => {
  const cases = [
    { sysctls: { 'kernel.no_such_thing': '1' }, word: /kernel\.no_such_thing/ },
    { sysctls: { 'net.core.somaxconn': 'many' }, word: /net\.core\.somaxconn/ },
    { sysctls: { 'kernel.core_pattern': '|/bin/sh' }, word: /kernel\.core_pattern/ },
  ]
  for (const { sysctls, word } of cases) await t.rejects(cri.runPod(podConfig({ linux: { sysctls } }), microvm), { message: word })
})

t.test('what is left', async (t) => {
  await pod.remove()
  await kuasar.sh('rm -rf /var/lib/kubelet')
  t.strictSame(await kuasar.leaks(), [])
})
