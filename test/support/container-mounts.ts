/**
 * The preparer against the kernel: roots, failures, crashes, hostile bundles.
 * Runs in a mount namespace of its own (see container-mounts.test.ts).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import type { Mounts } from '#shared/os/contract.ts'
import { SPEC_BYTES_MAX } from '#host/container/oci.ts'
import { VOLUMES_DIR } from '#host/sandbox/share.ts'
import { removeTree } from '#host/sandbox/undo.ts'
import { Lab, mountPoints, native, nothingLeft, volume } from './container-lab.ts'
import { bind } from './container-spec.ts'

await t.test('every container has its own root', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  for (const id of ['a', 'b', 'c']) {
    sandbox.add(id, { layers: 3 })
    await sandbox.prepare(id)
  }
  for (const id of ['a', 'b', 'c']) {
    t.equal((await sandbox.asGuest(`cat ${id}/rootfs/name`)).stdout, id)
    await sandbox.asGuest(`echo wrote-${id} > ${id}/rootfs/file`)
    t.equal(readFileSync(join(lab.upper(id), 'file'), 'utf8'), `wrote-${id}\n`)
    t.same(readdirSync(join(lab.bundle(id), 'rootfs')), [], 'nothing in the bundle')
  }
  t.same(sandbox.mounted(), ['', 'a/rootfs', 'b/rootfs', 'c/rootfs'])
  for (const id of ['a', 'b', 'c']) await sandbox.release(id)
  nothingLeft(t, sandbox)
  await sandbox.release('a')
  await sandbox.release('never-seen')
})

await t.test('a guest changes nothing but what is mounted for it', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  mkdirSync(join(lab.base, 'rw'))
  mkdirSync(join(lab.base, 'ro'))
  writeFileSync(join(lab.base, 'file'), 'host')
  sandbox.add('a', { mounts: [bind(join(lab.base, 'rw'), '/rw'), bind(join(lab.base, 'ro'), '/ro', 'ro'), bind(join(lab.base, 'file'), '/f', 'ro')] })
  await sandbox.prepare('a')
  for (const script of [
    'mkdir x',
    'mv a b',
    'rmdir a/volumes',
    'ln -s /etc a/evil',
    'mv a/volumes a/old',
    'mv a/rootfs a/root',
    'rm -rf a',
    `touch ${volume('a', 1)}/x`,
    `echo guest > ${volume('a', 2)}`,
    `rm ${volume('a', 2)}`,
    'mount -o remount,bind,rw . && false',
  ]) {
    const { exitCode } = await sandbox.asGuest(script)
    t.not(exitCode, 0, script)
  }
  t.equal((await sandbox.asGuest(`touch a/rootfs/x ${volume('a', 0)}/x`)).exitCode, 0)
  t.ok(existsSync(join(lab.base, 'rw/x')))
  t.equal(readFileSync(join(lab.base, 'file'), 'utf8'), 'host')
  await sandbox.release('a')
  t.same(readdirSync(join(lab.base, 'rw')), ['x'], 'a volume outlives its container')
  nothingLeft(t, sandbox)
})

await t.test('images of many layers', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const id = 'l'.repeat(60)
  sandbox.add(id, { layers: 120 })
  await sandbox.prepare(id)
  t.match((await sandbox.asGuest(`ls ${id}/rootfs | wc -l; cat ${id}/rootfs/name`)).stdout, /^121\nl{60}$/)
  await sandbox.asGuest(`touch ${id}/rootfs/upper`)
  t.ok(existsSync(join(lab.upper(id), 'upper')))
  sandbox.add('deep', { layers: 300 })
  await t.rejects(sandbox.prepare('deep'), { code: 'RESOURCE_EXHAUSTED', message: /300 layers make \d+ bytes/ })
  await sandbox.release(id)
  nothingLeft(t, sandbox)
})

await t.test('read-only and single-layer snapshots', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  const overlay = lab.overlay('view', 2)
  sandbox.add('view', { snapshot: [{ ...overlay, options: overlay.options.filter((option) => option.startsWith('lowerdir=')) }] })
  const source = join(lab.snapshotsDir, 'view/1/fs')
  sandbox.add('bound', { snapshot: [{ type: 'bind', source, target: '', options: ['rw', 'rbind'] }] })
  sandbox.add('bound-ro', { snapshot: [{ type: 'bind', source, target: '', options: ['ro', 'rbind'] }] })
  for (const id of ['view', 'bound', 'bound-ro']) await sandbox.prepare(id)
  t.not((await sandbox.asGuest('touch view/rootfs/x')).exitCode, 0)
  t.equal((await sandbox.asGuest('ls view/rootfs')).stdout, 'layer-1\nlayer-2\nname')
  t.equal((await sandbox.asGuest('touch bound/rootfs/x')).exitCode, 0)
  t.not((await sandbox.asGuest('touch bound-ro/rootfs/y')).exitCode, 0)
  for (const id of ['view', 'bound', 'bound-ro']) await sandbox.release(id)
  nothingLeft(t, sandbox)
})

await t.test('asked again, and again after a crash, the answer is the same and nothing is mounted twice', async (t) => {
  await using lab = new Lab()
  const first = await lab.sandbox('s1')
  mkdirSync(join(lab.base, 'data'))
  first.add('a', { mounts: [bind(join(lab.base, 'data'), '/data')] })
  const answers = await Promise.all([first.prepare('a'), first.prepare('a'), first.prepare('a')])
  const mounted = first.mounted()
  t.same(mounted, ['', 'a/rootfs', volume('a', 0)])
  await first.asGuest('echo kept > a/rootfs/kept')
  const second = await first.reopened()
  const again = await second.prepare('a')
  for (const answer of answers) t.same(answer, again)
  t.same(second.mounted(), mounted)
  native.unmount(join(second.view.sharedDir, volume('a', 0)))
  await (await second.reopened()).prepare('a')
  t.same(second.mounted(), mounted, 'what a crash left out is made up for')
  await second.release('a')
  nothingLeft(t, second)
})

await t.test('a failure at any mount undoes all of them', async (t) => {
  await using lab = new Lab()
  let budget = Infinity
  const failing: Mounts = {
    ...native,
    mount(request) {
      if (budget-- <= 0) throw new Error('out of mounts')
      native.mount(request)
    },
  }
  const sandbox = await lab.sandbox('s1', { mounts: failing })
  mkdirSync(join(lab.base, 'data'))
  writeFileSync(join(lab.base, 'file'), '')
  sandbox.add('a', { mounts: [bind(join(lab.base, 'data'), '/data', 'ro'), bind(join(lab.base, 'file'), '/f')] })
  const before = mountPoints()
  let failures = 0
  for (let allowed = 0; ; allowed++) {
    budget = allowed
    const failed = await sandbox.prepare('a').then(() => false, () => true)
    if (!failed) break
    failures++
    t.same(mountPoints(), before, `after ${allowed} of the mounts`)
    nothingLeft(t, sandbox)
  }
  t.equal(failures, 9, 'an overlay, and four calls for each volume')
  await sandbox.release('a')
  t.same(mountPoints(), before)
})

await t.test('what a kill left in the staging mount is cleared', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  mkdirSync(join(lab.base, 'data'))
  const staged = join(sandbox.dir, 'staging/directory')
  native.mount({ source: lab.snapshotsDir, target: staged, type: '', options: ['bind', 'private'] })
  sandbox.add('a', { mounts: [bind(join(lab.base, 'data'), '/data')] })
  await sandbox.prepare('a')
  t.notOk(mountPoints().includes(staged))
  t.equal((await sandbox.asGuest(`touch ${volume('a', 0)}/x`)).exitCode, 0)
  t.ok(existsSync(join(lab.base, 'data/x')))
})

await t.test('a container in use is released all the same', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  sandbox.add('a')
  await sandbox.prepare('a')
  const busy = spawn('sh', ['-c', 'echo in && exec sleep 3600'], {
    cwd: join(sandbox.view.sharedDir, 'a/rootfs'),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(busy.stdout, 'data')
  await sandbox.release('a')
  nothingLeft(t, sandbox)
  t.equal((await sandbox.asGuest('ls')).stdout, '')
  busy.kill('SIGKILL')
  await once(busy, 'exit')
})

await t.test('a container of another sandbox is no container', async (t) => {
  await using lab = new Lab()
  const [mine, other] = [await lab.sandbox('s1'), await lab.sandbox('s2')]
  other.add('theirs')
  mine.add('lied-to', { recordSandbox: 's2' })
  mine.add('empty', { bundleSandbox: '' })
  mine.add('longer', { bundleSandbox: 's1x' })
  for (const id of ['theirs', 'lied-to', 'empty', 'longer', 'unknown'])
    await t.rejects(mine.prepare(id), { code: 'NOT_FOUND', message: `sandbox s1 has no container ${id} that containerd knows of` }, id)
  await mine.release('theirs')
  await other.prepare('theirs')
  await mine.release('theirs')
  t.same(other.mounted(), ['', 'theirs/rootfs'], 'and cannot be released')
  nothingLeft(t, mine)
})

await t.test('ids that are none select no path', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  sandbox.add('a')
  for (const id of ['', '.', '..', '../a', 'a/../a', 'a/b', '/a', 'a\0', 'a b', 'a'.repeat(77), 'ａ', 'a\n'])
    for (const call of ['prepare', 'release'] as const)
      await t.rejects(async () => void (await sandbox[call](id)), { code: 'INVALID_ARGUMENT', message: /is not an identifier/ }, JSON.stringify(id))
  nothingLeft(t, sandbox)
})

await t.test('a hostile bundle', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  sandbox.add('big', { spec: `"${'x'.repeat(SPEC_BYTES_MAX)}"` })
  await t.rejects(sandbox.prepare('big'), { code: 'RESOURCE_EXHAUSTED', message: /config\.json has \d+ bytes; the limit is 3145728/ })
  sandbox.add('linked')
  rmSync(join(lab.bundle('linked'), 'config.json'))
  symlinkSync('/etc/passwd', join(lab.bundle('linked'), 'config.json'))
  await t.rejects(sandbox.prepare('linked'), { code: 'ELOOP' })
  sandbox.add('torn')
  rmSync(join(lab.bundle('torn'), 'config.json'))
  await t.rejects(sandbox.prepare('torn'), { code: 'NOT_FOUND' })
  sandbox.add('fifo')
  rmSync(join(lab.bundle('fifo'), 'config.json'))
  await execa('mkfifo', [join(lab.bundle('fifo'), 'config.json')])
  await t.rejects(sandbox.prepare('fifo'), { code: 'INVALID_ARGUMENT' }, 'and nobody waits for a writer')
  nothingLeft(t, sandbox)
})

await t.test('many at once wait for nobody else', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  mkdirSync(join(lab.base, 'data'))
  const ids = Array.from({ length: 20 }, (_, index) => `c${index}`)
  for (const id of ids) sandbox.add(id, { mounts: [bind(join(lab.base, 'data'), '/data')] })
  await Promise.all(ids.map((id) => sandbox.prepare(id)))
  t.equal(sandbox.mounted().length, 1 + ids.length + 1, 'a root each, and the volume')
  await Promise.all(ids.map((id) => sandbox.release(id)))
  nothingLeft(t, sandbox)
  const calls = await Promise.allSettled(Array.from({ length: 40 }, () => sandbox.prepare('c0')))
  t.ok(calls.some((call) => call.status === 'rejected'), 'but one id asked for in a flood is refused')
  t.equal(sandbox.mounted().length, 3)
})

await t.test('without a guest the share is a plain directory', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1', { plain: true })
  mkdirSync(join(lab.base, 'data'))
  writeFileSync(join(lab.base, 'data/f'), 'x')
  sandbox.add('a', { mounts: [bind(join(lab.base, 'data'), '/data', 'ro')] })
  const { spec } = await sandbox.prepare('a')
  t.match(JSON.parse(spec.toString()), { root: { path: join(sandbox.view.sharedDir, 'a/rootfs') } })
  t.same(sandbox.mounted(), ['a/rootfs', volume('a', 0)])
  t.equal(readFileSync(join(sandbox.view.sharedDir, volume('a', 0), 'f'), 'utf8'), 'x')
  t.throws(() => writeFileSync(join(sandbox.view.sharedDir, volume('a', 0), 'f'), 'y'), { code: 'EROFS' })
  await sandbox.release('a')
  t.same(sandbox.mounted(), [])
  t.same(readdirSync(sandbox.view.sharedDir, { recursive: true }), [VOLUMES_DIR])
  t.ok(existsSync(join(lab.base, 'data/f')))
})

await t.test('the end of a sandbox takes all of it, and no volume', async (t) => {
  await using lab = new Lab()
  const sandbox = await lab.sandbox('s1')
  mkdirSync(join(lab.base, 'data'))
  writeFileSync(join(lab.base, 'data/f'), 'x')
  sandbox.add('a', { mounts: [bind(join(lab.base, 'data'), '/data')] })
  await sandbox.prepare('a')
  await (await sandbox.reopened()).ledger.release(() => true)
  t.same(readdirSync(dirname(sandbox.view.sharedDir)), [])
  t.ok(existsSync(join(lab.base, 'data/f')))
  t.notOk(mountPoints().some((point) => point.startsWith(sandbox.dir)))
})

await t.test('a directory that goes is never removed through a mount below it, on record or not', async (t) => {
  await using lab = new Lab()
  const [stray, data] = [join(lab.base, 'stray'), join(lab.base, 'data')]
  mkdirSync(join(stray, 'shared/v'), { recursive: true })
  mkdirSync(data)
  writeFileSync(join(data, 'file'), 'a user’s')
  // As often as a crash between a mount and its record may leave it.
  for (let times = 0; times < 2; times++) native.mount({ source: data, target: join(stray, 'shared/v'), type: '', options: ['bind'] })
  await removeTree(stray)
  t.notOk(existsSync(stray))
  t.equal(readFileSync(join(data, 'file'), 'utf8'), 'a user’s')
})
