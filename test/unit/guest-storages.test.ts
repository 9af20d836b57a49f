/** Mounts inside the guest: where they may be, who shares them, and when they go. */
import { mkdirSync, statSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { type Storage, Storages } from '#guest/storage/storages.ts'
import { createFakeOs } from '#shared/os/fake.ts'

function world(root: string) {
  const os = createFakeOs()
  t.teardown(() => os[Symbol.asyncDispose]())
  const storages = new Storages(os.mounts, root)
  const tmpfs = (name: string, more: Partial<Storage> = {}): Storage => ({ type: 'tmpfs', source: 'tmpfs', target: `${root}/${name}`, options: [], ...more })
  return { os, storages, tmpfs, mounted: () => os.mounted.map(({ target }) => target.slice(root.length + 1)) }
}

t.test('mounted in order, taken away in reverse, by the last who shares them', async (t) => {
  const { os, storages, tmpfs, mounted } = world(t.testdir())
  const unmounted: string[] = []
  const unmount = os.mounts.unmount.bind(os.mounts)
  os.mounts.unmount = (target, detach) => {
    unmounted.push(target.slice(-1))
    unmount(target, detach)
  }
  const [first, second] = await Promise.all([storages.acquire([tmpfs('a'), tmpfs('b')]), storages.acquire([tmpfs('b'), tmpfs('c')])])
  t.strictSame(mounted().toSorted(), ['a', 'b', 'c'], 'each once')
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  t.strictSame(mounted().toSorted(), ['b', 'c'])
  second[Symbol.dispose]()
  t.strictSame(unmounted, ['a', 'c', 'b'])
  t.strictSame(storages.mounted, [])
})

t.test('what is the pod\'s stays', async (t) => {
  const { storages, tmpfs, mounted } = world(t.testdir())
  for (let container = 0; container < 2; container++) (await storages.acquire([tmpfs('storages/pod/cache'), tmpfs('own')]))[Symbol.dispose]()
  t.strictSame(mounted(), ['storages/pod/cache'], 'mounted once')
})

t.test('one that cannot be mounted takes those before it away, and can be tried again', async (t) => {
  const { os, storages, tmpfs, mounted } = world(t.testdir())
  const mount = os.mounts.mount.bind(os.mounts)
  os.mounts.mount = (request) => {
    if (request.target.endsWith('b')) throw new Error('no memory')
    mount(request)
  }
  const wanted = [tmpfs('a'), tmpfs('b')]
  await t.rejects(storages.acquire(wanted), { code: 'INTERNAL', message: /storage tmpfs tmpfs on .*\/b failed/ })
  t.strictSame([mounted(), storages.mounted], [[], []])
  os.mounts.mount = mount
  await storages.acquire(wanted)
  t.strictSame(mounted(), ['a', 'b'])
})

t.test('targets outside, and types that need a helper, are refused', async (t) => {
  const root = t.testdir()
  const { storages, tmpfs, mounted } = world(root)
  for (const target of ['/etc', root, `${root}x/y`, `${root}/../y`, `${root}/a/../../y`, `${root}//a`]) {
    await t.rejects(storages.acquire([tmpfs('', { target })]), { code: 'INVALID_ARGUMENT', message: /expected a plain path below/ }, target)
  }
  await t.rejects(storages.acquire([tmpfs('a', { type: 'nfs' })]), { code: 'INVALID_ARGUMENT', message: /expected one of the types/ })
  t.strictSame(mounted(), [])
})

t.test('binds: a file on a file, a directory with what is mounted below it, and a part of a volume', async (t) => {
  const root = t.testdir({ volume: { part: {} } })
  const { os, storages, tmpfs } = world(root)
  writeFileSync(`${root}/volume/file`, '')
  mkdirSync(`${root}/there`)
  const own = [`uid=${process.getuid?.()}`, `gid=${process.getgid?.()}`]
  const bind = (name: string, source: string, options: readonly string[] = []) => tmpfs(name, { type: 'bind', source: `${root}/volume${source}`, options })
  const subpath = (name: string, path: string) => tmpfs(name, { type: 'subpath', source: `${root}/volume`, options: [`path=${path}`, ...own] })
  await storages.acquire([
    bind('file', '/file'), bind('there', ''), bind('new/directory', '', ['bind', 'ro']), subpath('part', '/part'), subpath('parts/file', '/file'),
  ])
  t.strictSame(os.mounted.map(({ target, type, options }) => [target.slice(root.length + 1), type, options]), [
    ['file', '', ['rbind']], ['there', '', ['rbind']], ['new/directory', '', ['bind', 'ro']], ['part', '', ['bind']], ['parts/file', '', ['bind']],
  ])
  const kinds = ['file', 'there', 'new/directory', 'part', 'parts/file'].map((name) => (statSync(`${root}/${name}`).isDirectory() ? 'directory' : 'file'))
  t.strictSame(kinds, ['file', 'directory', 'directory', 'directory', 'file'])
})
