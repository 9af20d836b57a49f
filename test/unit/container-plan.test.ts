import t from 'tap'
import { statusCodes, RuntimeError, type StatusName } from '#shared/errors.ts'
import { parseSpec } from '#host/container/oci.ts'
import { planContainer, sourcesOf, type ContainerPlan } from '#host/container/plan.ts'
import { HUGETLBFS, TMPFS, type SourceFacts } from '#host/container/source.ts'
import type { SnapshotMount } from '#host/containerd/contract.ts'
import { bind, criSpec, directory, file } from '../support/container-spec.ts'

const snapshots = '/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots'
const overlay: SnapshotMount = {
  type: 'overlay',
  source: 'overlay',
  target: '',
  options: [`workdir=${snapshots}/3/work`, `upperdir=${snapshots}/3/fs`, `lowerdir=${snapshots}/2/fs:${snapshots}/1/fs`, 'index=off'],
}

function plan(mounts: readonly unknown[], facts: Readonly<Record<string, SourceFacts>> = {}, snapshot = [overlay], hugepagesMiB = 0): ContainerPlan {
  const spec = parseSpec(criSpec({ mounts }), 'the spec')
  const hostDir = '/run/kuasar/sandboxes/s/shared/c'
  const guestDir = '/run/kuasar/shared/c'
  const guestRootDir = '/run/kuasar/roots/c'
  return planContainer({
    spec,
    snapshot,
    snapshotter: 'overlayfs',
    facts: new Map(Object.entries(facts)),
    id: 'c',
    podUid: '1',
    hugepagesMiB,
    hostDir,
    guestDir,
    guestRootDir,
    hostVolumesDir: '/run/kuasar/sandboxes/s/shared/_volumes',
    guestVolumesDir: '/run/kuasar/shared/_volumes',
    commonName: (key) => key,
  })
}

function refuses(t: Tap, code: StatusName, words: RegExp, call: () => unknown): void {
  try {
    call()
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error
    t.equal(error.code, code)
    t.ok(error.code in statusCodes)
    t.match(error.message, words)
    return
  }
  t.fail(`nothing was refused; expected ${words}`)
}
type Tap = Pick<typeof t, 'equal' | 'ok' | 'match' | 'fail'>

await t.test('a container without volumes: its root, and what the guest makes from nothing', async (t) => {
  const { rootfs, volumes, storages, mounts, guestRootfs } = plan([])
  t.same(rootfs, {
    kind: 'overlay',
    target: '/run/kuasar/sandboxes/s/shared/c/rootfs',
    lowerDirs: [`${snapshots}/2/fs`, `${snapshots}/1/fs`],
    upper: { upperDir: `${snapshots}/3/fs`, workDir: `${snapshots}/3/work` },
    options: ['index=off'],
  })
  t.equal(guestRootfs, '/run/kuasar/roots/c/rootfs')
  t.same(volumes, [])
  t.same(storages, [])
  t.same(
    mounts.map(({ destination, type }) => `${type} ${destination}`),
    ['proc /proc', 'tmpfs /dev', 'devpts /dev/pts', 'mqueue /dev/mqueue', 'sysfs /sys', 'cgroup /sys/fs/cgroup'],
    'all but /dev/shm, which is the pod’s',
  )
})

await t.test('snapshots', async (t) => {
  const bindRoot = { type: 'bind', source: `${snapshots}/1/fs`, target: '', options: ['rw', 'rbind'] }
  const target = '/run/kuasar/sandboxes/s/shared/c/rootfs'
  t.same(plan([], {}, [bindRoot]).rootfs, { kind: 'bind', target, source: `${snapshots}/1/fs`, readonly: 'no' })
  t.match(plan([], {}, [{ ...bindRoot, options: ['ro', 'rbind'] }]).rootfs, { readonly: 'top' })
  const view = { ...overlay, options: [`lowerdir=${snapshots}/2/fs:${snapshots}/1/fs`, 'volatile'] }
  t.same(plan([], {}, [view]).rootfs, { kind: 'overlay', target, lowerDirs: [`${snapshots}/2/fs`, `${snapshots}/1/fs`], upper: undefined, options: ['volatile'] })
  for (const [mounts, words] of [
    [[], /0 mounts/],
    [[overlay, overlay], /2 mounts \(overlay, overlay\)/],
    [[{ ...overlay, type: 'erofs' }], /of type "erofs"/],
    [[{ ...overlay, options: [...overlay.options, 'uidmap=0:1:2'] }], /user-id mapping/],
  ] as const)
    refuses(t, 'UNIMPLEMENTED', new RegExp(`snapshotter overlayfs .*${words.source}.*snapshotter = "overlayfs"`), () => plan([], {}, [...mounts]))
  for (const options of [[], ['lowerdir=relative'], ['lowerdir=/a', 'upperdir=/b']])
    refuses(t, 'INVALID_ARGUMENT', /expected absolute lowerdir/, () => plan([], {}, [{ ...overlay, options }]))
})

await t.test('bind mounts of directories and files', async (t) => {
  const facts = { '/data': directory(), '/hosts': file(), '/secret': directory(TMPFS) }
  const planned = plan(
    [bind('/data', '/data'), bind('/hosts', '/etc/hosts', 'ro'), bind('/secret', '/var/run/secret', 'rro'), bind('/data', '/again', 'ro', 'rw')],
    facts,
  )
  const keys = [`${facts['/data'].identity}.no.r.`, `${facts['/hosts'].identity}.top.r.`, `${facts['/secret'].identity}.recursive.r.`]
  const at = '/run/kuasar/sandboxes/s/shared/_volumes'
  const common = { recursive: true, receives: false, common: true }
  t.same(planned.volumes, [
    { node: 'directory', source: '/data', target: `${at}/${keys[0]}`, readonly: 'no', ...common },
    { node: 'file', source: '/hosts', target: `${at}/${keys[1]}`, readonly: 'top', ...common },
    { node: 'directory', source: '/secret', target: `${at}/${keys[2]}`, readonly: 'recursive', ...common },
  ])
  const shared = '/run/kuasar/shared/_volumes'
  t.same(planned.mounts.slice(6), [
    { destination: '/data', type: 'bind', source: `${shared}/${keys[0]}`, options: ['rbind', 'rprivate', 'rw'] },
    { destination: '/etc/hosts', type: 'bind', source: `${shared}/${keys[1]}`, options: ['rbind', 'rprivate', 'ro'] },
    { destination: '/var/run/secret', type: 'bind', source: `${shared}/${keys[2]}`, options: ['rbind', 'rprivate', 'rro'] },
    { destination: '/again', type: 'bind', source: `${shared}/${keys[0]}`, options: ['rbind', 'rprivate', 'ro', 'rw'] },
  ])
})

const target = (facts: SourceFacts, ...options: string[]) =>
  plan([{ ...bind('/d', '/d'), options }], { '/d': facts }).volumes[0]?.target.replace(/.*\/shared\//, '')

await t.test('a bind that holds the mounts of its time is the container\'s own; all others are the pod\'s, by what they bind and how', async (t) => {
  const withMounts = directory(undefined, undefined, { hasMounts: true })
  t.equal(target(withMounts, 'rbind', 'rprivate'), 'c/volumes/7')
  t.equal(target(withMounts, 'bind', 'rprivate'), `_volumes/${withMounts.identity}.no..`, 'it holds none of them')
  t.equal(target(withMounts, 'rbind', 'rslave'), `_volumes/${withMounts.identity}.no.r.s`, 'it gets and loses them as they come and go')
  const plain = directory()
  const different = [['rbind', 'rprivate'], ['rbind', 'ro'], ['rbind', 'rro'], ['bind'], ['rbind', 'rslave']].map((options) => target(plain, ...options))
  t.equal(new Set(different).size, 5)
  t.equal(target(plain, 'rbind', 'rprivate', 'rw'), different[0])
})

await t.test('a pod\'s own emptyDir is one for readers and writers: the guest alone keeps its readers from writing', async (t) => {
  const own = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/cache'
  const { volumes, mounts } = plan([bind(own, '/a'), bind(own, '/b', 'ro')], { [own]: directory() })
  t.match(volumes, [{ source: own, readonly: 'no' }])
  t.equal(volumes.length, 1)
  t.same(mounts.slice(-2).map(({ options }) => options.at(-1)), ['rw', 'ro'])
  const others = '/var/lib/kubelet/pods/2/volumes/kubernetes.io~empty-dir/cache'
  t.match(plan([bind(others, '/b', 'ro')], { [others]: directory() }).volumes, [{ readonly: 'top' }], 'another pod\'s is a directory of the host\'s')
  t.match(plan([bind(own, '/b', 'ro')], { [own]: directory(undefined, undefined, { hasMounts: true }) }).volumes, [{ readonly: 'top' }])
})

await t.test('read-only is the top alone, so with mounts below it the guest leaves it to the host', async (t) => {
  const options = (facts: SourceFacts, ...words: string[]) =>
    plan([{ ...bind('/d', '/d'), options: words }], { '/d': facts }).mounts.at(-1)?.options
  const withMounts = directory(undefined, undefined, { hasMounts: true })
  t.same(options(withMounts, 'rbind', 'rprivate', 'ro'), ['rbind', 'rprivate'])
  t.same(options(withMounts, 'rbind', 'rprivate', 'rro'), ['rbind', 'rprivate', 'rro'])
  t.same(options(withMounts, 'bind', 'rprivate', 'ro'), ['bind', 'rprivate', 'ro'], 'nothing below is bound')
  t.same(options(directory(), 'rbind', 'rslave', 'ro'), ['rbind', 'rslave'], 'mounts may come')
  t.same(options(directory(), 'rbind', 'rprivate', 'ro'), ['rbind', 'rprivate', 'ro'])
  t.match(plan([bind('/d', '/d', 'ro')], { '/d': withMounts }).volumes, [{ readonly: 'top' }])
})

await t.test('a bind is known by its type or by its options', async (t) => {
  const mount = { destination: '/d', type: 'none', source: '/d', options: ['bind', 'ro'] }
  t.match(plan([mount], { '/d': directory() }).volumes, [{ recursive: false, readonly: 'top' }])
  t.match(plan([{ ...mount, type: undefined, options: ['rbind'] }], { '/d': directory() }).volumes, [{ recursive: true }])
  t.match(plan([mount], { '/d': directory() }).mounts.at(-1), { type: 'bind' })
})

const from = (...options: string[]) => plan([{ destination: '/d', type: 'bind', source: '/d', options }], { '/d': directory() }).volumes

await t.test('propagation', async (t) => {
  t.match(from('rbind', 'rslave'), [{ receives: true }])
  t.match(from('rbind', 'rslave', 'rprivate'), [{ receives: false }])
  t.match(from('rbind'), [{ receives: false }])
  refuses(t, 'UNIMPLEMENTED', /the mount on \/d from \/d asks for rshared propagation.*mountPropagation.*an emptyDir of the pod/, () => from('rbind', 'rshared'))
})

await t.test('what is mounted in an emptyDir of the pod reaches its other containers: of those who want that it is one mount', async (t) => {
  const own = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/cache'
  const both = [bind(own, '/a', 'rw', 'rshared'), bind(own, '/b', 'ro', 'rslave')]
  const facts = { [own]: directory() }
  const disk = plan(both, facts)
  t.match(disk.volumes, [{ source: own, readonly: 'no', receives: true }])
  t.equal(disk.volumes.length, 1)
  t.same(plan([...both, bind(own, '/c')], facts).volumes, disk.volumes, 'and of those who do not: they have what is there when they start')
  t.same(disk.mounts.slice(-2).map(({ options }) => options.slice(-2)), [['rw', 'rshared'], ['ro', 'rslave']])
  const memory = plan([...both, bind(own, '/c')], { [own]: directory(TMPFS) })
  const target = '/run/kuasar/storages/shared/1_cache'
  t.match(memory.storages, [
    { type: 'tmpfs', target: '/run/kuasar/storages/pod/1_cache' },
    { type: 'bind', source: '/run/kuasar/storages/pod/1_cache', target, options: ['bind', 'shared'] },
  ])
  t.same(memory.mounts.slice(-3).map(({ source }) => source), [target, target, target])
  for (const path of [own.replace('/pods/1/', '/pods/2/'), `${own}/part`, '/var/lib/kubelet/pods/1/volume-subpaths/cache/app/0', '/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/cache'])
    refuses(t, 'UNIMPLEMENTED', /asks for rshared propagation/, () => plan([bind(path, '/a', 'rshared')], { [path]: directory(), [own]: directory() }))
  refuses(t, 'UNIMPLEMENTED', /asks for runbindable propagation/, () => plan([bind(own, '/a', 'runbindable')], { [own]: directory() }))
})

await t.test('an emptyDir in memory is a tmpfs of the guest, one for the pod', async (t) => {
  const source = '/var/lib/kubelet/pods/1234-abcd/volumes/kubernetes.io~empty-dir/cache'
  const { volumes, storages, mounts } = plan([bind(source, '/a'), bind(source, '/b', 'ro')], { [source]: directory(TMPFS, 4096 * 16) })
  t.same(volumes, [], 'nothing of it lies on the host')
  const target = '/run/kuasar/storages/pod/1234-abcd_cache'
  const shared = '/run/kuasar/storages/shared/1234-abcd_cache'
  t.same(storages, [
    { type: 'tmpfs', source: 'tmpfs', target, options: ['nosuid', 'nodev', 'size=65536', 'mode=2777', 'uid=0', 'gid=1000'] },
    { type: 'bind', source: target, target: shared, options: ['bind', 'shared'] },
  ])
  t.same(mounts.slice(6), [
    { destination: '/a', type: 'bind', source: shared, options: ['rbind', 'rprivate', 'rw'] },
    { destination: '/b', type: 'bind', source: shared, options: ['rbind', 'rprivate', 'ro'] },
  ])
})

await t.test('an emptyDir on disk, and a secret in memory, are shared', async (t) => {
  const disk = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/cache'
  const secret = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~projected/kube-api-access'
  const { volumes, storages } = plan([bind(disk, '/a'), bind(secret, '/b')], { [disk]: directory(), [secret]: directory(TMPFS) })
  t.same(volumes.map(({ source }) => source), [disk, secret])
  t.same(storages, [])
})

const hugepages = (fsBlockBytes = 2 * 1024 * 1024) => directory(HUGETLBFS, 0, { fsBlockBytes })

await t.test('an emptyDir of huge pages is a hugetlbfs of the guest, where it has them', async (t) => {
  const source = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/pages'
  const { volumes, storages, mounts } = plan([bind(source, '/a')], { [source]: hugepages() }, [overlay], 64)
  const target = '/run/kuasar/storages/pod/1_pages'
  t.same(volumes, [])
  t.match(storages, [
    { type: 'hugetlbfs', source: 'hugetlbfs', target, options: ['nosuid', 'nodev', 'pagesize=2M', 'mode=2777', 'uid=0', 'gid=1000'] },
    { type: 'bind', source: target, options: ['bind', 'shared'] },
  ])
  t.match(mounts.at(-1), { destination: '/a', type: 'bind', source: target.replace('/pod/', '/shared/') })
  refuses(t, 'UNIMPLEMENTED', /is of huge pages: the pod has none: set the annotation io\.kuasar\.hugepages-mib/, () => plan([bind(source, '/a')], { [source]: hugepages() }))
  refuses(t, 'UNIMPLEMENTED', /has huge pages of 1073741824 bytes/, () => plan([bind(source, '/a')], { [source]: hugepages(1 << 30) }, [overlay], 64))
})

await t.test('a subPath shares its volume’s data; of one in memory the guest binds it', async (t) => {
  const pod = '/var/lib/kubelet/pods/1'
  const source = `${pod}/volume-subpaths/cache/app/0`
  const volume = `${pod}/volumes/kubernetes.io~empty-dir/cache`
  const spec = parseSpec(criSpec({ mounts: [bind(source, '/a')] }), 'the spec')
  t.same(sourcesOf(spec), [source, volume])
  t.match(plan([bind(source, '/a')], { [source]: directory(), [volume]: directory() }).volumes, [{ source }])
  t.match(plan([bind(source, '/a')], { [source]: directory(TMPFS), [volume]: { kind: 'missing' } }).volumes, [{ source }], 'of a secret')
  const inMemory = (facts: SourceFacts) => plan([bind(source, '/a', 'ro')], { [source]: facts, [volume]: directory(TMPFS, 4096 * 16) })
  const { volumes, storages, mounts } = inMemory(directory(TMPFS, 4096 * 16, { fsPath: '/deep/part', mode: 0o750 }))
  const target = '/run/kuasar/storages/container/c/7'
  t.same(volumes, [])
  t.match(storages, [
    { type: 'tmpfs', target: '/run/kuasar/storages/pod/1_cache' },
    { type: 'subpath', source: '/run/kuasar/storages/pod/1_cache', target, options: ['path=/deep/part', 'mode=0750', 'uid=0', 'gid=1000'] },
  ])
  t.match(mounts.at(-1), { destination: '/a', type: 'bind', source: target, options: ['rbind', 'rprivate', 'ro'] })
  t.match(inMemory(directory(TMPFS, 4096, { fsPath: '/' })).mounts.at(-1), { source: '/run/kuasar/storages/pod/1_cache' }, 'the whole of it')
  refuses(t, 'UNIMPLEMENTED', /is a file on the host of an emptyDir in memory/, () => inMemory(file(TMPFS)))
})

await t.test('/dev/shm is the pod’s, unless the pod brings its own', async (t) => {
  const criShm = '/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s/shm'
  t.same(sourcesOf(parseSpec(criSpec({ mounts: [bind(criShm, '/dev/shm')] }), '')), [])
  t.notOk(plan([bind(criShm, '/dev/shm')]).mounts.some(({ destination }) => destination === '/dev/shm'))
  const own = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/shm'
  t.match(plan([bind(own, '/dev/shm')], { [own]: directory(TMPFS) }).mounts.at(-1), {
    destination: '/dev/shm',
    source: '/run/kuasar/storages/shared/1_shm',
  })
})

await t.test('devices every kernel has are the guest’s own', async (t) => {
  t.match(plan([bind('/dev/null', '/mask')], { '/dev/null': { kind: 'char', major: 1, minor: 3 } }).mounts.at(-1), { source: '/dev/null' })
  t.match(plan([bind('/odd/name', '/mask')], { '/odd/name': { kind: 'char', major: 1, minor: 5 } }).mounts.at(-1), { source: '/dev/zero' })
})

const other = (type: string) => plan([{ destination: '/in', type, source: 'server:/export', options: [] }])

await t.test('what another kernel cannot be given is refused by name', async (t) => {
  const cases: readonly [SourceFacts, StatusName, RegExp][] = [
    [{ kind: 'missing' }, 'FAILED_PRECONDITION', /has no such source on the host: create it first/],
    [{ kind: 'socket' }, 'UNIMPLEMENTED', /binds a socket/],
    [{ kind: 'fifo' }, 'UNIMPLEMENTED', /binds a fifo/],
    [{ kind: 'block', major: 8, minor: 1 }, 'UNIMPLEMENTED', /binds the block device 8:1/],
    [{ kind: 'char', major: 195, minor: 0 }, 'UNIMPLEMENTED', /binds the device 195:0/],
    [directory(HUGETLBFS), 'UNIMPLEMENTED', /lies on hugetlbfs/],
    [directory(0x9fa0), 'UNIMPLEMENTED', /binds the host kernel's proc/],
    [directory(0x62656572), 'UNIMPLEMENTED', /binds the host kernel's sysfs/],
    [file(0x63677270), 'UNIMPLEMENTED', /binds the host kernel's cgroup2/],
  ]
  for (const [facts, code, words] of cases)
    refuses(t, code, new RegExp(`the mount on /in from /src ${words.source}`), () => plan([bind('/src', '/in')], { '/src': facts }))
  refuses(t, 'UNIMPLEMENTED', /binds the host's devices/, () => plan([bind('/dev/snd', '/dev/snd')], { '/dev/snd': directory(TMPFS) }))
  refuses(t, 'FAILED_PRECONDITION', /no such source/, () => plan([bind('/not/looked/at', '/in')]))
  refuses(t, 'INVALID_ARGUMENT', /binds no absolute path/, () => plan([bind('data', '/in')]))
  for (const type of ['nfs', 'ext4', 'overlay', 'hugetlbfs', '']) refuses(t, 'UNIMPLEMENTED', /the mount on \/in from server:\/export is of type/, () => other(type))
  const mapped = { ...bind('/d', '/in'), uidMappings: [{ containerID: 0, hostID: 1, size: 1 }] }
  refuses(t, 'UNIMPLEMENTED', /user-id mapping/, () => plan([mapped], { '/d': directory() }))
  refuses(t, 'UNIMPLEMENTED', /user-id mapping/, () => plan([bind('/d', '/in', 'ridmap')], { '/d': directory() }))
})
