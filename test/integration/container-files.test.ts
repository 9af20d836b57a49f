/** A container's files in a microVM: its root, its volumes, and what is refused. One pod, many containers. */
import t from 'tap'
import { poll } from '#test/node/poll.ts'
import { inside as paths } from '#test/node/paths.ts'
import { idle, images, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

await using kuasar = await startKuasar()
const sh = (script: string) => kuasar.sh(script)
await sh('mkdir -p /scratch/v/dir /scratch/v/ro /scratch/v/tree/sub; echo host >/scratch/v/file; echo host >/scratch/v/ro/f; echo host >/scratch/v/dir/f')
const mount = (hostPath: string, containerPath: string, more: object = {}) => ({ hostPath, containerPath, ...more })
const ro = { readonly: true }
/** The volume's directory as kubelet names it: that is how an emptyDir is told from other directories. */
const emptyDir = (name: string) => `/var/lib/kubelet/pods/11111111-2222/volumes/kubernetes.io~empty-dir/${name}`

/** A file system in user space, until whoever serves it ends. */
const fuse = (at: string) => `one-file ${at} >/dev/null 2>&1 & until [ -e ${at}/word ]; do sleep 0.1; done`

// So that containers of it may be.
const pod = await kuasar.containerd.cri.runPod({ name: 'files', linux: { securityContext: { privileged: true } } }, microvm)
/** Descriptors that the pod's two virtiofsd hold. */
const held = async () => Number(await sh(`for p in $(pidof virtiofsd); do grep -q ${pod.id} /proc/$p/cmdline && ls /proc/$p/fd; done | wc -l`))
/** Entries of the share; each container has one while it exists. */
const shared = async () => (await sh(`cd /run/kuasar/sandboxes/${pod.id}/shared; ls .; if [ -d _volumes ]; then ls _volumes; fi`)).split('\n').filter((name) => !['', '_volumes'].includes(name))

await t.test('two containers, each its own root', async (t) => {
  const [a, b] = await Promise.all([pod.run({ ...idle, name: 'a' }), pod.run({ ...idle, name: 'b', image: images.layers })])
  await inside(a, 'echo from-a > /root/mark; rm /etc/group')
  t.equal(await inside(b, 'cat /root/mark 2>/dev/null || echo none; head -c 4 /etc/group'), 'none\nroot')
  t.equal(await inside(b, 'cat /layers/top; ls /layers | sort | tr "\\n" " "'), '49\n48 49 top', 'whiteouts of 51 layers')
  t.equal(await inside(a, 'ls / | grep -c layers || true'), '0')
  const root = `/run/kuasar/sandboxes/${pod.id}/shared/${a.id}/rootfs`
  t.equal(await sh(`cat ${root}/root/mark`), 'from-a\n')
  t.same((await shared()).toSorted(), [a.id, b.id].toSorted())
  t.equal(await sh(`ls /run/containerd/io.containerd.runtime.v2.task/k8s.io/${a.id}/rootfs`), '', 'nothing in the bundle')
  t.match(await sh(`grep /${pod.id}/shared[[:space:]] /proc/self/mountinfo`), /\/shared ro,nosuid,nodev/, 'what virtiofsd serves is read-only above the roots')
  for (const container of [a, b]) {
    await container.stop(10)
    await container.remove()
  }
  t.same(await shared(), [])
})

await t.test('the same image twice is two roots', async (t) => {
  const [a, b] = await Promise.all([pod.run({ ...idle, name: 'same-a' }), pod.run({ ...idle, name: 'same-b' })])
  await Promise.all([inside(a, 'echo a > /root/who'), inside(b, 'echo b > /root/who')])
  t.equal(await inside(a, 'cat /root/who'), 'a')
  t.equal(await inside(b, 'cat /root/who'), 'b')
  await Promise.all([a.stop(10), b.stop(10)])
})

await t.test('one directory in two containers is one in everything: locks, pipes, sockets, mapped memory, what inotify tells', async (t) => {
  await sh('mkdir -p /scratch/v/one')
  const mounts = [mount('/scratch/v/one', '/e'), mount(`${paths.checkout}/build/test/one-directory`, '/bin/one', ro)]
  const [a, b] = await Promise.all([pod.run({ ...idle, name: 'one-a', mounts }), pod.run({ ...idle, name: 'one-b', mounts })])
  await inside(a, 'mkfifo /e/pipe; one lock /e/lock >/dev/null & one hold /e/map written >/dev/null & one serve /e/socket >/dev/null & sleep 0.1')
  t.ok(await poll(30_000, async () => ((await inside(b, 'one try /e/lock')) === 'locked' ? true : undefined)), 'a lock is held')
  t.ok(await poll(30_000, async () => ((await inside(b, 'one look /e/map')) === 'written' ? true : undefined)), 'memory is seen')
  t.equal(await inside(b, 'until [ -S /e/socket ]; do sleep 0.1; done; one ask /e/socket'), 'answered')
  const [said] = await Promise.all([inside(a, 'cat /e/pipe'), inside(b, 'echo through >/e/pipe')])
  t.equal(said, 'through')
  // Until it is told, for nobody knows when it has begun to watch.
  const creating = inside(b, 'i=0; until [ -e /e/enough ]; do i=$((i+1)); touch /e/new-$i; sleep 0.2; done')
  t.equal(await inside(a, 'one watch /e; touch /e/enough'), 'told')
  await creating
  // Whoever leaves first takes nothing along; the last takes all.
  await a.stop(0)
  await a.remove()
  t.equal(await inside(b, 'echo more >/e/f; cat /e/f; one try /e/lock'), 'more\nfree')
  const c = await pod.run({ ...idle, name: 'one-c', mounts })
  t.equal(await inside(c, 'cat /e/f; [ -p /e/pipe ] && echo pipe'), 'more\npipe')
  for (const container of [b, c]) {
    await container.stop(0)
    await container.remove()
  }
  t.same(await sh('cat /scratch/v/one/f'), 'more\n')
  t.same((await shared()).filter((name) => /^[\w.]+-[0-9a-f]{8}$/.test(name)), [], 'no volume is left in the share')
})

await t.test('bind mounts of files and directories, writable and not', async (t) => {
  const container = await pod.run({
    ...idle,
    name: 'binds',
    mounts: [
      mount('/scratch/v/dir', '/dir'),
      mount('/scratch/v/ro', '/ro', ro),
      mount('/scratch/v/file', '/etc/one-file'),
      mount('/scratch/v/file', '/etc/same-file', ro),
      mount('/dev/null', '/etc/hidden'),
      mount('/scratch/v/file', '/dev/termination-log'),
    ],
  })
  t.equal(await inside(container, 'cat /dir/f /ro/f /etc/one-file /etc/same-file /etc/hidden'), 'host\nhost\nhost\nhost')
  await inside(container, 'echo guest > /dir/new; echo guest > /dev/termination-log; chmod 600 /dir/new; chown 1000:1000 /dir/new; ln -s x /dir/link')
  t.equal(await sh('cat /scratch/v/dir/new /scratch/v/file; stat -c "%a %u %F" /scratch/v/dir/new; readlink /scratch/v/dir/link'), 'guest\nguest\n600 1000 regular file\nx\n')
  for (const script of ['echo x > /ro/f', 'touch /ro/x', 'rm /ro/f', 'echo x > /etc/same-file', 'mount -o remount,rw /ro'])
    t.not((await container.execSync(['sh', '-c', script])).exitCode, 0, script)
  t.equal(await sh('cat /scratch/v/ro/f'), 'host\n')
  await sh('echo later > /scratch/v/dir/later')
  t.equal(await inside(container, 'cat /dir/later'), 'later', 'the host’s changes are seen')
  await container.stop(10)
  await container.remove()
  t.equal(await sh('cat /scratch/v/dir/new'), 'guest\n', 'a volume outlives its container')
})

await t.test('a read-only volume with mounts below it: its own files alone are read-only, unless asked for all', async (t) => {
  await sh('mount -t tmpfs tmpfs /scratch/v/tree/sub; echo host >/scratch/v/tree/f; echo host >/scratch/v/tree/sub/f')
  const container = await pod.run({
    ...idle,
    name: 'tree',
    mounts: [mount('/scratch/v/tree', '/tree', ro), mount('/scratch/v/tree/sub', '/sub', ro)],
  })
  t.equal(await inside(container, 'cat /tree/f /tree/sub/f /sub/f'), 'host\nhost\nhost')
  await inside(container, 'echo guest > /tree/sub/new; mkdir /tree/sub/dir; rm /tree/sub/f')
  t.equal(await sh('ls /scratch/v/tree/sub'), 'dir\nnew\n')
  for (const script of ['echo x > /tree/f', 'touch /tree/x', 'rm /tree/f', 'mkdir /tree/dir', 'chmod 600 /tree/f', 'echo x > /sub/new', 'touch /sub/x'])
    t.match((await container.execSync(['sh', '-c', script])).stderr, /Read-only file system/, script)
  await container.stop(10)
  await container.remove()
  await sh('umount /scratch/v/tree/sub')
})

await t.test('a read-only root, an image’s volume, a user', async (t) => {
  const readonly = await pod.run({ ...idle, name: 'readonly', security: { readonlyRootfs: true }, mounts: [mount('/scratch/v/dir', '/new/mount/point')] })
  t.not((await readonly.execSync(['touch', '/x'])).exitCode, 0)
  await inside(readonly, 'touch /new/mount/point/from-readonly /dev/shm/x')
  const volume = await pod.run({ ...idle, name: 'volume', image: images.volume })
  t.match(await inside(volume, 'touch /data/x && grep " /data " /proc/mounts'), /virtiofs/)
  const user = await pod.run({ ...idle, name: 'user', security: { runAsUser: { value: '1000' }, runAsGroup: { value: '1000' } } })
  t.equal(await inside(user, 'id -u; touch /tmp/mine && stat -c %u /tmp/mine; touch /root/x 2>/dev/null || echo denied'), '1000\n1000\ndenied')
  await Promise.all([readonly.stop(10), volume.stop(10), user.stop(10)])
})

await t.test('emptyDir, on disk and in memory, is one for the pod and outlives its containers', async (t) => {
  await sh(`mkdir -p ${emptyDir('disk')} ${emptyDir('memory')} && mount -t tmpfs -o size=1m,mode=0777 tmpfs ${emptyDir('memory')}`)
  const mounts = [mount(emptyDir('disk'), '/disk'), mount(emptyDir('memory'), '/memory'), mount(emptyDir('memory'), '/look', ro)]
  const [a, b] = [await pod.run({ ...idle, name: 'empty-a', mounts }), await pod.run({ ...idle, name: 'empty-b', mounts })]
  await inside(a, 'echo a > /disk/f; echo a > /memory/f')
  t.equal(await inside(b, 'cat /disk/f /memory/f /look/f'), 'a\na\na')
  t.not((await b.execSync(['touch', '/look/x'])).exitCode, 0)
  t.match(await inside(a, 'grep " /memory " /proc/mounts; df -k /memory'), /^tmpfs .*\n(.*\n)*.*\b1024\b/)
  t.equal(await sh(`ls ${emptyDir('memory')}`), '', 'no file of it is on the host')
  await Promise.all([a.stop(10), b.stop(10)])
  await Promise.all([a.remove(), b.remove()])
  const again = await pod.run({ ...idle, name: 'empty-again', mounts })
  t.equal(await inside(again, 'cat /disk/f /memory/f'), 'a\na')
  await again.stop(10)
  await sh(`umount ${emptyDir('memory')}`)
})

await t.test('/dev/shm is the pod’s', async (t) => {
  const [a, b] = [await pod.run({ ...idle, name: 'shm-a' }), await pod.run({ ...idle, name: 'shm-b' })]
  await inside(a, 'echo shared > /dev/shm/f')
  t.equal(await inside(b, 'cat /dev/shm/f; stat -f -c %T /dev/shm; stat -c %a /dev/shm'), 'shared\ntmpfs\n1777')
  await Promise.all([a.stop(10), b.stop(10)])
})

await t.test('mounts made on the host later are seen only where asked for', async (t) => {
  const container = await pod.run({
    ...idle,
    name: 'propagation',
    mounts: [mount('/scratch/v/tree', '/none'), mount('/scratch/v/tree', '/receives', { propagation: 'PROPAGATION_HOST_TO_CONTAINER' })],
  })
  await sh('mount -t tmpfs tmpfs /scratch/v/tree/sub && touch /scratch/v/tree/sub/late')
  t.equal(await inside(container, 'ls /none/sub'), '')
  t.equal(await inside(container, 'ls /receives/sub'), 'late')
  await sh('umount -l /scratch/v/tree/sub')
  await container.stop(10)
})

await t.test('a mount that a container makes in an emptyDir of its pod is the other containers’ that ask for it, and never the host’s', async (t) => {
  const own = (name: string) => `/var/lib/kubelet/pods/${pod.config.metadata?.uid}/volumes/kubernetes.io~empty-dir/${name}`
  await sh(`mkdir -p ${own('disk')} ${own('memory')} && mount -t tmpfs -o size=1m,mode=0777 tmpfs ${own('memory')}; test -e /dev/fuse || mknod /dev/fuse c 10 229`)
  const volumes = (more: object) => [mount(own('disk'), '/d', more), mount(own('memory'), '/m', more), mount(`${paths.checkout}/build/test/one-file`, '/bin/one-file', ro)]
  const receives = { name: 'receives', mounts: volumes({ propagation: 'PROPAGATION_HOST_TO_CONTAINER', readonly: true }) }
  const shares = (name: string, attempt = 0) => ({
    metadata: { name, attempt },
    image: { image: images.busybox },
    command: [...idle.command],
    logPath: `${name}/${attempt}.log`,
    devices: [{ hostPath: '/dev/fuse', containerPath: '/dev/fuse', permissions: 'rwm' }],
    mounts: volumes({ propagation: 'PROPAGATION_BIDIRECTIONAL' }),
    linux: { securityContext: { privileged: true } },
  })
  const points = (container: Awaited<ReturnType<typeof pod.run>>) => inside(container, `awk '$2 ~ "^/[dm](/|$)" { print $2, $3 }' /proc/mounts | sort | tr "\\n" ";"`)
  const before = await shared()
  const [reader, alone] = [await pod.run({ ...idle, ...receives }), await pod.run({ ...idle, name: 'alone', mounts: volumes({}) })]
  const maker = await pod.run(shares('maker'))
  await inside(maker, `mkdir /d/tmp /d/bound /d/fuse /m/fuse; mount -t tmpfs tmpfs /d/tmp; echo made >/d/tmp/f; mount --bind /etc /d/bound; ${fuse('/d/fuse')}; ${fuse('/m/fuse')}`)
  const all = '/d virtiofs;/d/bound virtiofs;/d/fuse fuse;/d/tmp tmpfs;/m tmpfs;/m/fuse fuse;'
  t.equal(await points(reader), all, 'one that was there before')
  t.equal(await inside(reader, 'cat /d/tmp/f /d/fuse/word /m/fuse/word; ls /d/bound | grep -c hostname; touch /d/x 2>/dev/null || echo read-only'), 'made\nserved\nserved\n1\nread-only')
  const second = await pod.run(shares('second'))
  t.equal(await points(second), all, 'and one that comes later')
  t.equal(await points(maker), all, 'whose start takes nothing away')
  t.equal(await points(alone), '/d virtiofs;/m tmpfs;')
  const late = await pod.run({ ...idle, name: 'late', mounts: volumes({ readonly: true }) })
  t.equal(await points(late), all, 'one that asks for nothing has what was there when it started')
  t.equal(await inside(late, 'cat /d/tmp/f; touch /d/tmp/g; touch /d/x 2>/dev/null || echo read-only'), 'made\nread-only', 'and its readOnly is the volume’s alone')
  t.equal(await sh(`ls ${own('disk')}/tmp ${own('disk')}/bound ${own('disk')}/fuse ${own('memory')}; grep -c ' fuse one-file' /proc/self/mountinfo || true`).then((text) => text.replace(/^.*:$|\n/gm, '')), '0', 'the host has nothing of it')
  await inside(second, 'umount /d/tmp')
  for (const container of [maker, reader]) t.equal(await points(container), all.replace('/d/tmp tmpfs;', ''), 'unmounted by another')
  t.equal(await points(late), all, 'which is nothing to one that asks for nothing')
  // SIGKILL: as on a host, its mounts stay as long as anybody has the volume, and a file system in user space has lost its server.
  await maker.stop(0)
  await maker.remove()
  t.equal(await inside(reader, 'cat /d/fuse/word 2>&1 || true'), "cat: can't open '/d/fuse/word': Transport endpoint is not connected")
  const again = await pod.run(shares('maker', 1))
  await inside(again, `umount /d/fuse /m/fuse; ${fuse('/d/fuse')}; ${fuse('/m/fuse')}`)
  t.equal(await inside(reader, 'cat /d/fuse/word /m/fuse/word'), 'served\nserved')
  for (const container of [second, again, reader, alone, late]) {
    await container.stop(0)
    await container.remove()
  }
  t.same(await shared(), before, 'the last who leaves takes all')
  const fresh = await pod.run(shares('fresh'))
  t.equal(await points(fresh), '/d virtiofs;/m tmpfs;')
  t.equal(await inside(fresh, 'cat /d/fuse/word /m/fuse/word 2>/dev/null; dmesg | grep -E "Busy inodes|BUG:" || true'), '', 'and the kernel has nothing to say')
  // It is there when the pod is removed.
  await inside(fresh, `mount -t tmpfs tmpfs /d/tmp; ${fuse('/d/fuse')}; ${fuse('/m/fuse')}`)
  await sh(`umount ${own('memory')}`)
})

await t.test('the space of a removed container’s files is given back while its pod runs', async (t) => {
  // An overlay, like a container's root, on a file system that nobody else fills.
  await sh(`mkdir -p /scratch/v/space /scratch/v/merged && mount -t tmpfs -o size=128m tmpfs /scratch/v/space && cd /scratch/v/space &&
    mkdir lower upper work && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay /scratch/v/merged`)
  const usedKiB = async () => Number((await sh('df -k /scratch/v/space | tail -n 1')).split(/ +/)[2])
  const container = await pod.run({ ...idle, name: 'space', mounts: [mount('/scratch/v/merged', '/m')] })
  await inside(container, 'dd if=/dev/zero of=/m/big bs=1M count=48 2>/dev/null && wc -c < /m/big')
  t.ok((await usedKiB()) >= 48 * 1024)
  await container.stop(10)
  await container.remove()
  await sh('umount /scratch/v/merged && rm -rf /scratch/v/space/upper')
  const given = await poll(30_000, async () => ((await usedKiB()) < 1024 ? true : undefined))
  t.equal(given, true, 'neither the guest nor virtiofsd keeps a deleted file open')
  await sh('umount /scratch/v/space')
})

await t.test('what a container writes is in its snapshot on the host', async (t) => {
  const container = await pod.run({ ...idle, name: 'snapshot' })
  await inside(container, 'mkdir /new && dd if=/dev/zero of=/new/big bs=1M count=3 2>/dev/null && rm /etc/group && mv /etc/passwd /etc/moved')
  t.match(await sh(`ctr -n k8s.io snapshots usage ${container.id}`), new RegExp(`^${container.id} 3\\.\\d MiB`, 'm'))
  const changes = (await sh(`ctr -n k8s.io snapshots diff ${container.id} | tar -tz`)).split('\n')
  for (const path of ['new/', 'new/big', 'etc/.wh.group', 'etc/.wh.passwd', 'etc/moved']) t.ok(changes.includes(path), path)
  await container.stop(10)
  await container.remove()
})

await t.test('roots that come and go in one pod, under the same names, are never taken for each other', async (t) => {
  const before = await held()
  for (let round = 0; round < 4; round++) {
    // Two at a time, of two images, in turns: neither directories nor inode numbers are new for long.
    const layers = { image: images.layers }
    const [a, b] = await Promise.all([
      pod.run({ ...idle, name: 'turn-a', ...(round % 2 === 0 ? layers : {}) }),
      pod.run({ ...idle, name: 'turn-b', ...(round % 2 === 1 ? layers : {}) }),
    ])
    const look = 'cat /root/mark 2>/dev/null; ls / | grep -c layers; cat /layers/top 2>/dev/null; find / -xdev >/dev/null'
    const [layered, plain] = round % 2 === 0 ? [a, b] : [b, a]
    t.equal(await inside(layered, `${look} || true`), '1\n49', `round ${round}: a root as its image has it`)
    t.equal(await inside(plain, `${look} || true`), '0', `round ${round}: and the other`)
    for (const container of [a, b]) await inside(container, `echo ${container.id} > /root/mark; rm -f /etc/passwd`)
    t.equal(await inside(a, 'cat /root/mark'), a.id)
    await Promise.all([a.stop(10), b.stop(10)])
    await Promise.all([a.remove(), b.remove()])
  }
  const after = await poll(30_000, async () => ((await held()) <= before ? true : undefined))
  t.equal(after, true, `nothing of them is held open: ${before} descriptors before, ${await held()} after`)
})

await t.test('what a sandbox cannot carry is refused by name, and the pod goes on', async (t) => {
  await sh('mkfifo /scratch/v/fifo; node -e "require(\'net\').createServer().listen(\'/scratch/v/socket\', () => process.exit(0))"; mknod /scratch/v/disk b 7 0')
  const before = await shared()
  const cases: readonly [string, readonly object[], RegExp][] = [
    ['socket', [mount('/scratch/v/socket', '/in')], /the mount on \/in from \/scratch\/v\/socket binds a socket/],
    ['fifo', [mount('/scratch/v/fifo', '/in')], /binds a fifo/],
    ['block', [mount('/scratch/v/disk', '/in')], /binds the block device 7:0/],
    ['proc', [mount('/proc', '/in')], /binds the host kernel's proc/],
    ['sys', [mount('/sys', '/in')], /binds the host kernel's sysfs/],
    ['dev', [mount('/dev', '/in')], /binds the host's devices/],
    ['kvm', [mount('/dev/kvm', '/in')], /binds the device 10:232/],
    ['bidirectional', [mount('/scratch/v/tree', '/in', { propagation: 'PROPAGATION_BIDIRECTIONAL' })], /asks for rshared propagation/],
  ]
  for (const [name, mounts, message] of cases) {
    const container = await pod.create({ ...idle, name: `refused-${name}`, mounts })
    await t.rejects(container.start(), { message }, name)
    await container.remove()
  }
  t.same(await shared(), before, 'nothing of them is left')
  const command = await pod.create({ name: 'no-command', command: ['/no/such/program'] })
  await t.rejects(command.start(), { message: /\/no\/such\/program/ }, 'a spec that crun refuses')
  await command.remove()
  const directory = await pod.create({ name: 'no-directory', command: ['sh'], workingDir: '/etc/passwd' })
  await t.rejects(directory.start(), { message: /etc\/passwd/ })
  await directory.remove()
  t.same(await shared(), before)
  const fine = await pod.run({ ...idle, name: 'fine' })
  t.equal(await inside(fine, 'echo fine'), 'fine')
})

await t.test('a removed pod leaves nothing', async (t) => {
  await pod.remove()
  // The last is mount(8)'s own, which this test has used.
  await sh('rm -rf /scratch/v /var/lib/kubelet /run/mount')
  t.same(await kuasar.leaks(60_000), [], 'containerd collects its snapshots in its own time')
})
