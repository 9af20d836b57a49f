import t from 'tap'
import { cgroupPath, planPod, type PodRequest } from '#host/sandbox/plan.ts'
import { noLimits as none, podRequest as request, sizing } from '#test/support/pod-request.ts'

const GIB = 1024 ** 3
const plan = (changes: Partial<PodRequest> = {}) => planPod(request(changes), sizing, '/kuasar')

const size = (changes: Partial<PodRequest>) => {
  const { vcpus, memoryMiB } = plan(changes)
  return [vcpus, memoryMiB]
}

const pages = (pageSize: string, MiB: number) => ({ hugepages: [{ pageSize, limitBytes: MiB * 1024 * 1024 }] })

const limits = (cpus: number, bytes: number) => ({ cpuPeriodMicros: 100_000, cpuQuotaMicros: cpus * 100_000, memoryLimitBytes: bytes })

t.test('sizes', async (t) => {
  t.same(size({}), [1, 512], 'no limits: the defaults')
  t.same(size({ resources: limits(0.5, GIB) }), [1, 1024 + 160], 'a part of a processor takes a whole one; memory plus reserve')
  t.same(size({ resources: limits(2, GIB) }), [2, 1184])
  t.same(size({ resources: limits(2.001, GIB) }), [3, 1184], 'rounded up')
  t.same(size({ resources: limits(1, 16 * 1024 * 1024) }), [1, 256], 'never less than a guest boots with')
  t.same(size({ resources: limits(64, 1024 * GIB) }), [8, 16_384], 'never more than the machine has')
  t.same(size({ resources: { ...none, cpuQuotaMicros: -1, cpuPeriodMicros: 100_000 } }), [1, 512], 'a quota of -1 is no limit')
  for (const [resources, vcpus] of [[none, 2], [{ ...none, cpuQuotaMicros: -1, cpuPeriodMicros: 100_000 }, 2], [limits(1, GIB), 1]] as const)
    t.equal(planPod(request({ resources }), { ...sizing, vcpus: 2 }, '/kuasar').vcpus, vcpus, 'the default, where no limit is')
  t.same(size({ annotations: { 'io.kuasar.vcpus': '4', 'io.kuasar.memory-mib': '2048' }, resources: limits(1, GIB) }), [4, 2048], 'annotations win')
  t.same(size(pages('2MB', 64)), [1, 512 + 64], 'huge pages are counted apart')
  t.same(size({ ...pages('2MB', 3), resources: limits(1, GIB) }), [1, 1024 + 160 + 4], 'whole pages')
  t.same(size({ ...pages('2MB', 64), annotations: { 'io.kuasar.hugepages-mib': '8' } }), [1, 520], 'the annotation wins here too')
  t.equal(plan(pages('2MB', 64)).guest.hugepagesMiB, 64)
  t.equal(plan(pages('1GB', 0)).guest.hugepagesMiB, 0, 'the kubelet names every size of the node')
  t.throws(() => plan(pages('1GB', 1024)), { code: 'INVALID_ARGUMENT', message: /huge pages of 1GB: a sandbox has pages of 2MB/ })
  t.throws(() => plan({ ...pages('2MB', 64), annotations: { 'io.kuasar.memory-mib': '300' } }), { message: /expected a whole number from 320 to/ })
  for (const [key, value] of [['io.kuasar.vcpus', '0'], ['io.kuasar.vcpus', 'many'], ['io.kuasar.memory-mib', '1']] as const)
    t.throws(() => plan({ annotations: { [key]: value } }), { code: 'INVALID_ARGUMENT', message: new RegExp(`annotation ${key}="${value}": expected`) })
})

t.test('what the guest is told', async (t) => {
  const { guest, annotations, netnsPath } = plan({ annotations: { 'io.kuasar.shm-mib': '8', 'example.com/x': 'y' }, sysctls: { 'net.core.somaxconn': '1024' } })
  t.same(guest, {
    hostname: 'web-0',
    dns: { servers: ['10.0.0.10'], searches: ['shop.svc'], options: ['ndots:5'] },
    sysctls: { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647', 'net.core.somaxconn': '1024' },
    hostsLines: ['127.0.1.1\tweb-0'],
    shmBytes: 8 * 1024 * 1024,
    hugepagesMiB: 0,
    memoryLimitBytes: 0,
  })
  t.equal(plan({ resources: limits(1, GIB) }).guest.memoryLimitBytes, GIB)
  t.same(annotations, { 'io.kuasar.shm-mib': '8' }, 'only our own annotations go on')
  t.equal(netnsPath, '/var/run/netns/cni-1')
  t.equal(plan({ netnsPath: '' }).netnsPath, undefined)
  t.equal(plan({ hostname: '' }).guest.hostname, '0123456789ab')
  for (const key of ['kernel.core_pattern', 'kernel/modprobe'])
    t.throws(() => plan({ sysctls: { [key]: '|/bin/sh' } }), { code: 'INVALID_ARGUMENT', message: new RegExp(`sysctl ${key} names a program`) })
  t.match(plan({ sysctls: { 'kernel.core_pattern': 'core.%p' } }).guest.sysctls, { 'kernel.core_pattern': 'core.%p' })
  const own = { 'net/ipv4/ip_unprivileged_port_start': '1024', 'net.ipv4.ping_group_range': '1 0' }
  t.same(plan({ sysctls: own }).guest.sysctls, own, 'a pod may have it otherwise')
  for (const key of ['../../etc', 'a..b', 'a b', ''])
    t.throws(() => plan({ sysctls: { [key]: '1' } }), { code: 'INVALID_ARGUMENT', message: /is not a kernel parameter/ })
})

t.test('cgroups', async (t) => {
  t.equal(plan().cgroupPath, '/kuasar/kuasar-0123456789abcdef')
  t.equal(cgroupPath('/kubepods/burstable/pod1', 's'), '/kubepods/burstable/pod1/kuasar-s')
  t.equal(cgroupPath('kubepods/pod1/', 's'), '/kubepods/pod1/kuasar-s')
  t.equal(cgroupPath('kubepods-besteffort-pod1_2.slice', 's'), '/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/kuasar-s')
  t.equal(cgroupPath('/kubepods.slice/kubepods-besteffort.slice', 's'), '/kubepods.slice/kubepods-besteffort.slice/kuasar-s', 'a slice by its whole path')
  t.equal(cgroupPath('-.slice', 's'), '/kuasar-s')
  t.throws(() => cgroupPath('/a/../b', 's'), { code: 'INVALID_ARGUMENT' })
  t.throws(() => cgroupPath('a--b.slice', 's'), { code: 'INVALID_ARGUMENT', message: /systemd slice/ })
})

t.test('host namespaces are refused by name', async (t) => {
  const namespaces = request().namespaces
  t.throws(() => plan({ namespaces: { ...namespaces, network: 'NODE' } }), { code: 'INVALID_ARGUMENT', message: /hostNetwork:/ })
  t.throws(() => plan({ namespaces: { ...namespaces, pid: 'NODE', ipc: 'NODE' } }), { code: 'INVALID_ARGUMENT', message: /hostPID, hostIPC:/ })
  t.throws(() => plan({ namespaces: { ...namespaces, user: 'POD' } }), { code: 'INVALID_ARGUMENT', message: /hostUsers: false/ })
  t.doesNotThrow(() => plan({ namespaces: { ...namespaces, user: 'NODE', pid: 'POD' } }))
})
