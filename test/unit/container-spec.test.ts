import t from 'tap'
import { hasCode, type StatusName } from '#shared/errors.ts'
import { formatJson } from '#shared/json.ts'
import { MOUNTS_MAX, SPEC_BYTES_MAX, parseSpec } from '#host/container/oci.ts'
import { guestSpec, type GuestSpec } from '#host/container/spec.ts'
import { criSpec, namespaces, type SpecParts } from '../support/container-spec.ts'

const rootfs = '/run/kuasar/roots/c/rootfs'
const plan = { mounts: [], guestRootfs: rootfs }
const guest = (parts: SpecParts = {}): GuestSpec => guestSpec(parseSpec(criSpec(parts), 'the spec'), plan, 16)
const device = (path: string, type: string, major: number, minor: number) => ({ linux: { devices: [{ path, type, major, minor }] } })
const pages = (limit: number, pageSize = '2MB') => ({ linux: { resources: { hugepageLimits: [{ pageSize, limit }] } } })
const plain = (spec: unknown): unknown => JSON.parse(formatJson(spec))

await t.test('the golden spec of a container as CRI writes it', async (t) => {
  const { spec, pidNamespace } = guest({
    top: { hooks: { prestart: [{ path: '/usr/bin/host-hook' }] }, hostname: 'h' },
    process: { apparmorProfile: 'cri-containerd.apparmor.d', selinuxLabel: 'system_u:system_r:container_t:s0' },
  })
  t.same(pidNamespace, { kind: 'private' })
  t.same(plain(spec), {
    ociVersion: '1.2.1',
    process: { user: { uid: 0, gid: 0 }, args: ['sh'], env: ['PATH=/bin'], cwd: '/', oomScoreAdj: 0 },
    root: { path: rootfs },
    hostname: 'h',
    mounts: [],
    annotations: { 'io.kubernetes.cri.container-type': 'container' },
    linux: {
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        memory: { limit: 67108864, swap: 67108864 },
        cpu: { quota: 50000, period: 100000 },
      },
      namespaces: [{ type: 'mount' }, { type: 'pid' }, { type: 'cgroup' }],
    },
  })
})

await t.test('what is the runtime’s own business passes through', async (t) => {
  const linux = {
    seccomp: { defaultAction: 'SCMP_ACT_ERRNO', syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW' }] },
    maskedPaths: ['/proc/kcore'],
    readonlyPaths: ['/proc/sys'],
    sysctl: { 'net.ipv4.ping_group_range': '0 0' },
    rootfsPropagation: 'rslave',
    devices: [
      { path: '/dev/fuse', type: 'c', major: 10, minor: 229, fileMode: 438 },
      { path: '/dev/pipe', type: 'p' },
    ],
  }
  const { spec } = guest({ linux: { ...linux, namespaces: [...namespaces, { type: 'time' }] }, top: { root: { path: 'rootfs', readonly: true } } })
  t.match(plain(spec), {
    root: { path: rootfs, readonly: true },
    linux: { ...linux, namespaces: [{ type: 'mount' }, { type: 'pid' }, { type: 'cgroup' }, { type: 'time' }] },
  })
})

await t.test('PID namespaces', async (t) => {
  t.same(guest({ pidPath: '/proc/0/ns/pid' }).pidNamespace, { kind: 'pod' })
  t.same(guest({ pidPath: '/proc/4242/ns/pid' }).pidNamespace, { kind: 'target', pid: 4242 })
  t.same(guest({ pidPath: '' }).pidNamespace, { kind: 'private' })
  for (const pidPath of ['/run/netns/pid', '/proc/self/ns/pid', '/proc/-1/ns/pid', '/proc/1/ns/pid/..', '/proc/99999999999/ns/pid'])
    throws(t, { pidPath }, 'INVALID_ARGUMENT', /expected \/proc\/<pid>\/ns\/pid/)
})

await t.test('numbers beyond a double keep every digit', async (t) => {
  const text = criSpec({ process: { rlimits: [{ type: 'RLIMIT_NOFILE', hard: 0, soft: 1 }] } }).replace('"hard":0', '"hard":18446744073709551615')
  const { spec } = guestSpec(parseSpec(text, 'the spec'), plan, 16)
  t.match(formatJson(spec), /"hard":18446744073709551615,/)
})

await t.test('keys of every name pass, and touch no prototype', async (t) => {
  const text = criSpec().replace('"annotations":{', '"annotations":{"__proto__":{"polluted":true},"constructor":"x",')
  const { spec } = guestSpec(parseSpec(text, 'the spec'), plan, 16)
  t.match(formatJson(spec), /"__proto__":\{"polluted":true\}/)
  t.equal(Reflect.get({}, 'polluted'), undefined)
})

await t.test('the host’s namespaces are refused', async (t) => {
  for (const type of ['pid', 'network', 'ipc', 'uts', 'mount']) {
    throws(t, { linux: { namespaces: namespaces.filter((namespace) => namespace.type !== type) } }, 'INVALID_ARGUMENT', new RegExp(`asks for the host's ${type} namespace.*hostNetwork, hostPID or hostIPC`))
  }
  throws(t, { linux: { namespaces: undefined } }, 'INVALID_ARGUMENT', /pid, network, ipc, uts, mount/)
})

await t.test('user namespaces are refused', async (t) => {
  const mapping = [{ containerID: 0, hostID: 65536, size: 65536 }]
  throws(t, { linux: { uidMappings: mapping } }, 'UNIMPLEMENTED', /hostUsers/)
  throws(t, { linux: { namespaces: [...namespaces, { type: 'user', path: '/proc/0/ns/user' }] } }, 'UNIMPLEMENTED', /hostUsers/)
  t.ok(guest({ linux: { uidMappings: [], gidMappings: null } }), 'empty mappings are none')
})

await t.test('devices of the host are refused by name', async (t) => {
  throws(t, device('/dev/nvidia0', 'c', 195, 0), 'UNIMPLEMENTED', /device \/dev\/nvidia0 \(c 195:0\).*privileged_without_host_devices = true/)
  throws(t, device('/dev/null', 'b', 1, 3), 'UNIMPLEMENTED', /\(b 1:3\)/)
  throws(t, { linux: { devices: [{ path: '/dev/x', type: 'c' }] } }, 'UNIMPLEMENTED', /\(c \?:\?\)/)
})

await t.test('huge pages that the pod does not have, and seccomp listeners, are refused', async (t) => {
  const MiB = 1024 * 1024
  t.match(plain(guest(pages(16 * MiB)).spec), pages(16 * MiB))
  throws(t, pages(18 * MiB), 'UNIMPLEMENTED', /18 MiB of huge pages \(2MB\), and its pod's VM was started with 16 MiB: set the annotation io\.kuasar\.hugepages-mib/)
  throws(t, pages(1024 * MiB, '1GB'), 'UNIMPLEMENTED', /huge pages of 1GB are not available/)
  t.match(plain(guest(pages(0, '1GB')).spec), pages(0, '1GB'), 'a limit of none is none')
  throws(t, { linux: { seccomp: { listenerPath: '/run/seccomp.sock' } } }, 'UNIMPLEMENTED', /seccomp listener \(\/run\/seccomp.sock\)/)
})

await t.test('what is no spec is refused, naming the field', async (t) => {
  const cases: readonly [string, RegExp][] = [
    ['', /the spec is not JSON/],
    ['{"ociVersion":', /the spec is not JSON/],
    ['null', /not an OCI runtime spec for Linux/],
    ['[]', /not an OCI runtime spec for Linux/],
    [criSpec({ top: { linux: undefined } }), /for Linux: linux/],
    [criSpec({ top: { mounts: [{ destination: 'relative' }] } }), /mounts\.0\.destination: expected an absolute path/],
    [criSpec({ top: { mounts: [{ destination: '/a\0b' }] } }), /mounts\.0\.destination/],
    [criSpec({ top: { mounts: 'x' } }), /mounts/],
    [criSpec({ linux: { devices: [{ path: '/dev/x' }] } }), /linux\.devices\.0\.type/],
    [criSpec({ mounts: Array.from({ length: MOUNTS_MAX }, () => ({ destination: '/x', type: 'proc' })) }), /more than 512 mounts/],
    [`${'['.repeat(SPEC_BYTES_MAX / 2)}${']'.repeat(SPEC_BYTES_MAX / 2)}`, /nests too deep/],
    [criSpec().replace('"sh"', `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`), /nests too deep/],
  ]
  for (const [text, words] of cases)
    t.throws(() => parseSpec(text, 'the spec'), { code: 'INVALID_ARGUMENT', message: words })
})

function throws(t: { readonly match: (found: unknown, pattern: RegExp) => boolean; readonly ok: (found: unknown) => boolean }, parts: SpecParts, code: StatusName, words: RegExp): void {
  let caught: unknown
  try {
    guest(parts)
  } catch (error) {
    caught = error
  }
  t.ok(hasCode(caught, code))
  t.match(caught instanceof Error ? caught.message : caught, words)
}
