/**
 * A container's volumes against the kernel: what is shared, hidden, received and read-only.
 * Runs in a mount namespace of its own (see container-mounts.test.ts).
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import type { Mounts } from '#shared/os/contract.ts'
import { Lab, mountPoints, native, nothingLeft, POD_UID, volume } from './container-lab.ts'
import { bind } from './container-spec.ts'

await t.test('a part of a volume in memory is named by where it is in its file system', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const pod = join(lab.base, 'pods/1-a')
  const whole = join(pod, 'volumes/kubernetes.io~empty-dir/mem')
  const part = join(pod, 'volume-subpaths/mem/app/0')
  for (const path of [whole, part]) mkdirSync(path, { recursive: true })
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0777', 'tmpfs', whole])
  mkdirSync(join(whole, 'a b/deep'), { recursive: true, mode: 0o711 })
  await execa('mount', ['--bind', join(whole, 'a b'), part])
  // The bind itself, and a directory below it: containerd may be given either.
  sandbox.add('a', { mounts: [bind(part, '/part'), bind(join(part, 'deep'), '/deep')] })
  const { storages } = await sandbox.prepare('a')
  t.match(storages.map(({ type, options }) => [type, options.find((word) => word.startsWith('path='))]), [
    ['tmpfs', undefined],
    ['subpath', 'path=/a b'],
    ['subpath', 'path=/a b/deep'],
  ])
  t.same(sandbox.mounted(), ['', 'a/rootfs'], 'nothing of it is in the share')
  await sandbox.release('a')
  await execa('umount', [part, whole])
  nothingLeft(t, sandbox)
})

await t.test('one source in two containers is one mount, which goes with the last of them', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const [source, file] = [join(lab.base, 'data'), join(lab.base, 'file')]
  mkdirSync(source)
  writeFileSync(file, '')
  // Both may be the first.
  const ids = ['a', 'b', 'c']
  for (const id of ids) sandbox.add(id, { mounts: [bind(source, '/data'), bind(file, '/etc/f'), bind(source, '/again')] })
  await Promise.all(ids.map((id) => sandbox.prepare(id)))
  const [data, single] = [volume('a', 0), volume('a', 1)]
  for (const id of ids) t.same([volume(id, 0), volume(id, 1), volume(id, 2)], [data, single, data])
  t.same(sandbox.mounted().toSorted(), ['', ...ids.map((id) => `${id}/rootfs`), data, single].toSorted(), 'each once')
  await sandbox.asGuest(`echo one > ${data}/f; echo two > ${single}`)
  await Promise.all([sandbox.release('a'), sandbox.release('b')])
  t.equal((await sandbox.asGuest(`cat ${data}/f ${single}`)).stdout, 'one\ntwo')
  const after = await sandbox.reopened()
  await after.release('c')
  t.equal(readFileSync(join(source, 'f'), 'utf8'), 'one\n')
  nothingLeft(t, after)
})

/** Containers "a" and "b" of one sandbox, and the directory that both have for a volume. */
async function oneDirectory(lab: Lab) {
  const sandbox = await lab.sandbox('s1')
  const source = join(lab.base, 'data')
  mkdirSync(source)
  for (const id of ['a', 'b']) sandbox.add(id, { mounts: [bind(source, '/data')] })
  return { sandbox, source }
}

await t.test('a container that comes while the last user leaves has a mount of its own', async (t) => {
  await using lab = new Lab()
  const { sandbox } = await oneDirectory(lab)
  await sandbox.prepare('a')
  const leaving = sandbox.release('a')
  await sandbox.prepare('b')
  t.not(volume('b', 0), volume('a', 0))
  await leaving
  t.same(sandbox.mounted(), ['', 'b/rootfs', volume('b', 0)])
  t.equal((await sandbox.asGuest(`touch ${volume('b', 0)}/f`)).exitCode, 0)
  await sandbox.release('b')
  nothingLeft(t, sandbox)
})

await t.test('a source that was replaced is another one for who comes later', async (t) => {
  await using lab = new Lab()
  const { sandbox, source } = await oneDirectory(lab)
  await sandbox.prepare('a')
  renameSync(source, join(lab.base, 'old'))
  mkdirSync(source)
  await sandbox.prepare('b')
  await sandbox.asGuest(`touch ${volume('a', 0)}/a ${volume('b', 0)}/b`)
  t.same([readdirSync(join(lab.base, 'old')), readdirSync(source)], [['a'], ['b']])
  for (const id of ['a', 'b']) await sandbox.release(id)
  nothingLeft(t, sandbox)
})

await t.test('one that fails takes nothing from the others', async (t) => {
  await using lab = new Lab()
  const { sandbox, source } = await oneDirectory(lab)
  sandbox.add('b', { mounts: [bind(source, '/data')], snapshot: [{ ...lab.overlay('b', 1), options: ['lowerdir=/none', 'upperdir=/none', 'workdir=/none'] }] })
  await sandbox.prepare('a')
  await t.rejects(sandbox.prepare('b'))
  t.same(sandbox.mounted(), ['', 'a/rootfs', volume('a', 0)])
  t.equal((await sandbox.asGuest(`touch ${volume('a', 0)}/f`)).exitCode, 0)
  await sandbox.release('a')
  nothingLeft(t, sandbox)
})

await t.test('a pod\'s own emptyDir is one for its readers too; any other directory is read-only on the host', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  // The lab's own directory is memory, which no volume of the share is.
  const disk = mkdtempSync(join(import.meta.dirname, '../../build/empty-dir-'))
  const own = join(disk, `pods/${POD_UID}/volumes/kubernetes.io~empty-dir/logs`)
  const other = join(disk, 'pods/other/volumes/kubernetes.io~empty-dir/logs')
  for (const path of [own, other]) mkdirSync(path, { recursive: true })
  sandbox.add('a', { mounts: [bind(own, '/logs', 'ro'), bind(other, '/other', 'ro')] })
  sandbox.add('b', { mounts: [bind(own, '/logs'), bind(other, '/other')] })
  for (const id of ['a', 'b']) await sandbox.prepare(id)
  t.equal(volume('a', 0), volume('b', 0))
  t.not(volume('a', 1), volume('b', 1))
  t.not((await sandbox.asGuest(`touch ${volume('a', 1)}/f`)).exitCode, 0)
  for (const id of ['a', 'b']) await sandbox.release(id)
  nothingLeft(t, sandbox)
  rmSync(disk, { recursive: true })
})

await t.test('mounts made later: hidden and not pinned, or received, as asked', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const source = join(lab.base, 'tree')
  mkdirSync(join(source, 'sub'), { recursive: true })
  sandbox.add('a', { mounts: [bind(source, '/tree'), { ...bind(source, '/tree2'), options: ['rbind', 'rslave'] }] })
  await sandbox.prepare('a')
  native.mount({ source: 'tmpfs', target: join(source, 'sub'), type: 'tmpfs', options: [] })
  writeFileSync(join(source, 'sub/late'), '')
  t.equal((await sandbox.asGuest(`ls ${volume('a', 0)}/sub`)).stdout, '')
  t.equal((await sandbox.asGuest(`ls ${volume('a', 1)}/sub`)).stdout, 'late')
  native.unmount(join(source, 'sub'))
  t.equal((await sandbox.asGuest(`ls ${volume('a', 1)}/sub`)).stdout, '')
  await sandbox.release('a')
  nothingLeft(t, sandbox)
})

await t.test('what is mounted below a volume is the guest\'s alone: the host may remove its own directories', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const source = join(lab.base, 'tree')
  const tmpfs = (path: string) => {
    mkdirSync(join(source, path), { recursive: true })
    native.mount({ source: 'tmpfs', target: join(source, path), type: 'tmpfs', options: [] })
    writeFileSync(join(source, path, 'file'), path)
  }
  const points = ['one', 'one/inner', 'deep/two words', 'over', 'over']
  for (const path of points) tmpfs(path)
  const inGuest = async () => (await sandbox.asGuest('grep -c "$PWD/" /proc/self/mountinfo')).stdout
  for (const id of ['a', 'b']) {
    sandbox.add(id, { mounts: [bind(source, '/tree', 'rw')] })
    await sandbox.prepare(id)
  }
  t.same(sandbox.mounted(), ['', 'a/rootfs', volume('a', 0), 'b/rootfs', volume('b', 0)])
  t.equal(await inGuest(), String(2 * (2 + points.length)))
  for (const path of points.toReversed()) native.unmount(join(source, path))
  rmdirSync(join(source, 'over'))
  const cat = async (id: string, path: string) => (await sandbox.asGuest(`cat '${volume(id, 0)}/${path}/file'`)).stdout
  for (const path of ['one', 'one/inner', 'deep/two words']) t.equal(await cat('a', path), path, 'a private bind keeps what the host has unmounted')
  t.not((await sandbox.asGuest(`ls ${volume('a', 0)}/over`)).exitCode, 0, 'and loses what the host removes')
  await sandbox.release('a')
  t.equal(await inGuest(), String(2 + 3), 'at release its mounts leave the guest too')
  t.equal(await cat('b', 'one/inner'), 'one/inner')
  const after = await sandbox.reopened()
  await after.release('b')
  t.equal(await inGuest(), '0', 'and after a crash as well')
  t.same(readdirSync(source), ['deep', 'one'])
  nothingLeft(t, after)
})

/** A volume with something mounted below, and the same elsewhere, to which a link leads once a guest has swapped the two. */
function swappable(base: string): { readonly source: string; readonly elsewhere: string; readonly swap: () => void } {
  const source = join(base, 'tree')
  const elsewhere = join(base, 'elsewhere')
  for (const path of [join(source, 'dir/point'), join(elsewhere, 'point')]) {
    mkdirSync(path, { recursive: true })
    native.mount({ source: 'tmpfs', target: path, type: 'tmpfs', options: [] })
  }
  const swap = () => {
    renameSync(join(source, 'dir'), join(source, 'moved'))
    symlinkSync(elsewhere, join(source, 'dir'))
  }
  return { source, elsewhere, swap }
}

await t.test('a mount that a guest has moved is not looked for', async (t) => {
  await using lab = new Lab()
  const { source, elsewhere, swap } = swappable(lab.base)
  // Just when the bind has come to its place, as a guest that can write the same volume could.
  const swapping: Mounts = {
    ...native,
    mount(request) {
      native.mount(request)
      if (!request.target.includes('/shared/') || !request.options.includes('rprivate')) return
      swap()
    },
  }
  const hostile = await lab.sandbox('s1', { mounts: swapping })
  hostile.add('a', { mounts: [bind(source, '/tree', 'rw')] })
  await hostile.prepare('a')
  t.ok(mountPoints().includes(join(elsewhere, 'point')), 'least of all through its link')
  await hostile.release('a')
  nothingLeft(t, hostile)
})

await t.test('a mount that a guest moves at the wrong moment becomes read-only all the same', async (t) => {
  await using lab = new Lab()
  const { source, elsewhere, swap } = swappable(lab.base)
  const swapping: Mounts = {
    ...native,
    restrict(target) {
      swap()
      native.restrict(target)
    },
  }
  const sandbox = await lab.sandbox('s1', { mounts: swapping })
  sandbox.add('a', { mounts: [bind(source, '/tree', 'rro')] })
  await sandbox.prepare('a')
  t.not((await sandbox.asGuest(`touch ${volume('a', 0)}/moved/point/x`)).exitCode, 0)
  writeFileSync(join(source, 'moved/point/y'), '')
  writeFileSync(join(elsewhere, 'point/z'), '')
  await sandbox.release('a')
  nothingLeft(t, sandbox)
})

await t.test('read-only goes as deep as asked', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const source = join(lab.base, 'tree')
  mkdirSync(join(source, 'sub'), { recursive: true })
  native.mount({ source: 'tmpfs', target: join(source, 'sub'), type: 'tmpfs', options: [] })
  sandbox.add('a', { mounts: [bind(source, '/1', 'ro'), bind(source, '/2', 'rro'), { ...bind(source, '/3'), options: ['bind'] }] })
  await sandbox.prepare('a')
  t.equal((await sandbox.asGuest(`touch ${volume('a', 0)}/sub/x`)).exitCode, 0)
  t.not((await sandbox.asGuest(`touch ${volume('a', 0)}/x`)).exitCode, 0)
  t.not((await sandbox.asGuest(`touch ${volume('a', 1)}/sub/y`)).exitCode, 0)
  t.equal((await sandbox.asGuest(`ls ${volume('a', 2)}/sub`)).stdout, '', 'bind alone leaves out what is mounted below')
  writeFileSync(join(source, 'sub/z'), '')
  await sandbox.release('a')
  nothingLeft(t, sandbox)
})

await t.test('sources are what they are when they are mounted', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const at = (name: string) => join(lab.base, name)
  mkdirSync(at('data/deep'), { recursive: true })
  symlinkSync('data', at('link'))
  const server = createServer().listen(at('socket'))
  await execa('mkfifo', [at('fifo')])
  const from = async (source: string) => {
    sandbox.add('a', { mounts: [bind(source, '/in')], snapshot: [] })
    return sandbox.prepare('a')
  }
  await t.rejects(from(at('link')), { code: 'FAILED_PRECONDITION', message: /reached through a symbolic link/ })
  await t.rejects(from(at('link/deep')), { code: 'FAILED_PRECONDITION', message: new RegExp(`it is ${at('data/deep')}`) })
  await t.rejects(from(`${lab.base}/data/../data`), { code: 'FAILED_PRECONDITION' })
  await t.rejects(from(at('nothing')), { code: 'FAILED_PRECONDITION', message: /has no such source/ })
  await t.rejects(from(at('socket')), { code: 'UNIMPLEMENTED', message: /binds a socket/ })
  await t.rejects(from(at('fifo')), { code: 'UNIMPLEMENTED', message: /binds a fifo/ })
  await t.rejects(from('/proc'), { code: 'UNIMPLEMENTED', message: /host kernel's proc/ })
  await t.rejects(from('/dev'), { code: 'UNIMPLEMENTED', message: /host's devices/ })
  await t.rejects(from('/dev/kvm'), { code: 'UNIMPLEMENTED', message: /device 10:232/ })
  await t.rejects(from(at('data/')), { code: 'UNIMPLEMENTED', message: /0 mounts/ }, 'a slash at the end is no link')
  await t.rejects(from('/dev/null'), { code: 'UNIMPLEMENTED', message: /0 mounts/ }, 'the guest has its own')
  nothingLeft(t, sandbox)
  server.close()
})

await t.test('an emptyDir in memory never touches the share', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const source = join(lab.base, 'pods/uid-1/volumes/kubernetes.io~empty-dir/cache')
  mkdirSync(source, { recursive: true })
  native.mount({ source: 'tmpfs', target: source, type: 'tmpfs', options: ['size=1m', 'mode=0777'] })
  sandbox.add('a', { mounts: [bind(source, '/cache')] })
  const { storages, spec } = await sandbox.prepare('a')
  const target = '/run/kuasar/storages/pod/uid-1_cache'
  const shared = '/run/kuasar/storages/shared/uid-1_cache'
  t.same(storages, [
    { type: 'tmpfs', source: 'tmpfs', target, options: ['nosuid', 'nodev', 'size=1048576', 'mode=0777', 'uid=0', 'gid=0'] },
    { type: 'bind', source: target, target: shared, options: ['bind', 'shared'] },
  ])
  t.match(spec.toString(), `"source":"${shared}"`)
  t.same(sandbox.mounted(), ['', 'a/rootfs'])
})
