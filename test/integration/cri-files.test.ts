/** Files that the kubelet brings along, and mounts of every kind that CRI can ask for. Volumes: container-files.test.ts. */
import t from 'tap'
import { podConfig } from '#test/cri/config.ts'
import { idle, images, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { containerd } = kuasar
const sh = (script: string) => kuasar.sh(script)
const { cri } = containerd
const dns = { servers: ['10.96.0.10', 'fd00::10'], searches: ['default.svc.cluster.local', 'cluster.local'], options: ['ndots:5', 'timeout:1'] }
const pod = await cri.runPod(podConfig({ name: 'files', hostname: 'web-0', dns }), microvm)
const device = (path: string) => ({ hostPath: path, containerPath: path, permissions: 'rwm' })
const mount = (hostPath: string, containerPath: string, more: object = {}) => ({ hostPath, containerPath, ...more })

await sh(`mkdir -p /scratch/f/tree/sub && cd /scratch/f && echo kubelet >hosts && touch log && echo part >tree/part && mount -t tmpfs tmpfs tree/sub && echo sub >tree/sub/file`)

t.test('hosts, hostname and resolv.conf: made from the pod, shared by its containers, kubelet\'s where it brings them', async (t) => {
  const [one, two] = await Promise.all([
    pod.run({ name: 'one', ...idle }),
    pod.run({ name: 'two', ...idle, mounts: [mount('/scratch/f/hosts', '/etc/hosts')] }),
  ])
  const text = await inside(one, 'hostname; cat /etc/hostname /etc/resolv.conf /etc/hosts; echo "10.1.1.1 added" >>/etc/hosts')
  t.match(text, /^web-0\nweb-0\nsearch default\.svc\.cluster\.local cluster\.local\nnameserver 10\.96\.0\.10\nnameserver fd00::10\noptions ndots:5 timeout:1\n127\.0\.0\.1\tlocalhost\n/)
  t.match(text, /\tweb-0/)
  t.equal(await inside(two, 'cat /etc/hosts'), 'kubelet')
  t.equal(await inside(two, 'hostname -f 2>/dev/null || hostname'), 'web-0')
  const readonly = await pod.run({ name: 'readonly', ...idle, security: { readonlyRootfs: true } })
  t.not((await readonly.execSync(['sh', '-c', 'echo x >>/etc/hosts'])).exitCode, 0, 'they are as writable as the root')
  await Promise.all([one, two, readonly].map((container) => container.stop(0)))
})

t.test('a termination message, and single files as a subPath or a ConfigMap brings them', async (t) => {
  const last = await pod.run({
    name: 'last-words',
    command: ['sh', '-c', 'cat /config/part >/dev/termination-log; exit 3'],
    mounts: [mount('/scratch/f/log', '/dev/termination-log'), mount('/scratch/f/tree/part', '/config/part', { readonly: true })],
  })
  t.match(await last.exited(), { exitCode: 3 })
  t.equal(await sh('cat /scratch/f/log'), 'part\n')
})

t.test('read-only, and what lies mounted below', async (t) => {
  const container = await pod.run({ name: 'below', ...idle, mounts: [mount('/scratch/f/tree', '/ro', { readonly: true }), mount('/scratch/f/tree', '/rw')] })
  t.equal(await inside(container, 'cat /ro/sub/file; cat /rw/sub/file; echo z >/rw/z; cat /ro/z; echo y >/rw/sub/y; cat /ro/sub/y'), 'sub\nsub\nz\ny')
  t.not((await container.execSync(['sh', '-c', 'echo x >/ro/x'])).exitCode, 0, 'the volume\'s own files are read-only')
  await inside(container, 'echo x >/ro/sub/x')
  t.equal(await sh('cat /scratch/f/tree/sub/x'), 'x\n', 'what is mounted below is what it is on the host, for only a recursive mount is read-only all through')
  await sh('umount /scratch/f/tree/sub')
  t.equal(await inside(container, 'cat /ro/sub/file /rw/sub/x'), 'sub\nx', 'a volume that receives no mounts keeps what it has')
  await sh('rmdir /scratch/f/tree/sub')
  t.equal(await sh('ls /scratch/f/tree'), 'part\nz\n', 'and keeps nobody on the host from removing the directory')
  await container.stop(0)
})

t.test('devices: the guest\'s own, and no other', async (t) => {
  await sh('test -e /dev/net/tun || { mkdir -p /dev/net; mknod /dev/net/tun c 10 200; }; test -e /dev/fuse || mknod /dev/fuse c 10 229; test -e /dev/kvm || mknod /dev/kvm c 10 232')
  const pieces = { metadata: { name: 'devices', attempt: 0 }, image: { image: images.busybox }, command: [...idle.command], logPath: 'devices/0.log' }
  const container = await pod.run({ ...pieces, devices: [device('/dev/fuse')] })
  t.equal(await inside(container, 'stat -c "%t:%T" /dev/fuse; : 3<>/dev/fuse && echo opened; : </dev/null; head -c 1 /dev/urandom | wc -c'), 'a:e5\nopened\n1')
  await container.stop(0)
  // The container that is given it may open it, which has its module loaded; one that binds it only sees it, as under runc.
  const tun = async (name: string, by: object, script: string) => {
    const container = await pod.run({ ...pieces, ...by, metadata: { name, attempt: 0 }, logPath: `${name}/0.log` })
    const said = await inside(container, `stat -c "%t:%T" /dev/net/tun; ${script}`)
    await container.stop(0)
    return said
  }
  t.equal(await tun('bound', { mounts: [mount('/dev/net/tun', '/dev/net/tun')] }, '(: 3<>/dev/net/tun) 2>/dev/null || echo denied'), 'a:c8\ndenied')
  t.equal(await tun('given', { devices: [device('/dev/net/tun')] }, ': 3<>/dev/net/tun && echo opened'), 'a:c8\nopened')
  const refused = await pod.create({ ...pieces, metadata: { name: 'kvm', attempt: 0 }, devices: [device('/dev/kvm')] })
  await t.rejects(refused.start(), { message: /device \/dev\/kvm \(c 10:232\) is the host's/ })
})

t.test('what is left', async (t) => {
  await pod.remove()
  await sh('rm -rf /scratch/f /run/mount')
  t.strictSame(await kuasar.leaks(60_000), [])
})
