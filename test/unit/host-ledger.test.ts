import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Ledger } from '#host/sandbox/ledger.ts'
import type { OwnedProcess } from '#host/sandbox/ownership.ts'
import { isAlive, MARKER, processStat } from '#host/sandbox/processes.ts'
import { parseRecord } from '#host/sandbox/record.ts'
import { DirectoryStore, type RecordStore } from '#host/sandbox/store.ts'
import { undo } from '#host/sandbox/undo.ts'
import { sandboxRecord } from '#test/support/record.ts'

const record = sandboxRecord()

async function opened(t: Test) {
  const dir = await mkdtemp('/tmp/ledger-')
  t.teardown(() => rm(dir, { recursive: true }))
  const store = await DirectoryStore.open(join(dir, 'ledger'))
  const onDisk = async () => parseRecord(await readFile(join(dir, 'ledger', 's.json'), 'utf8'), 's')
  return { dir, store, onDisk, ledger: new Ledger(record, store, undo) }
}

t.test('the intent is on disk before the thing, and gone after it', async (t) => {
  const { dir, ledger, onDisk } = await opened(t)
  const path = join(dir, 'thing')
  await ledger.acquire({ kind: 'directory', path }, async () => {
    t.same((await onDisk()).owned, [{ kind: 'directory', path }])
    await mkdir(path)
  })
  await writeFile(join(path, 'file'), 'x')
  await ledger.release(() => true)
  await t.rejects(stat(path), { code: 'ENOENT' })
  t.same((await onDisk()).owned, [])
  await ledger.release(() => true)
})

t.test('what fails half way is undone, and the error passes on', async (t) => {
  const { dir, ledger, onDisk } = await opened(t)
  const paths = ['a', 'b'].map((name) => join(dir, name))
  const failing = ledger.acquireAll(
    paths.map((path) => ({ kind: 'directory', path })),
    async () => {
      t.same((await onDisk()).owned, paths.map((path) => ({ kind: 'directory', path })), 'both were intended')
      for (const path of paths) await mkdir(path)
      throw new Error('no more')
    },
  )
  await t.rejects(failing, { message: 'no more' })
  t.same((await onDisk()).owned, [])
  t.same((await readdir(dir)).sort(), ['ledger'])
})

t.test('newest first, and what resists stays', async (t) => {
  const { ledger, onDisk } = await opened(t)
  const order: string[] = []
  const { store } = await opened(t)
  const stubborn = new Ledger({ ...record, owned: [1, 2, 3].map((name) => ({ kind: 'file', path: `/${name}` })) }, store, async (resources) =>
    resources.map((resource) => {
      if (resource.kind === 'file') order.push(resource.path)
      return resource.kind === 'file' && resource.path === '/2' ? new Error('busy') : undefined
    }),
  )
  await t.rejects(stubborn.release(() => true), { code: 'INTERNAL', message: /not everything could be undone: busy/ })
  t.same(order, ['/3', '/2', '/1'])
  t.same(stubborn.list(), [{ kind: 'file', path: '/2' }])
  await t.rejects(stubborn.remove(), { message: /still owns file \/2/ })
  await ledger.save()
  t.same((await onDisk()).owned, [])
})

const start = async (name: string): Promise<OwnedProcess & { readonly pid: number }> => {
  const child = spawn('sleep', ['1000'], { env: { [MARKER]: `s/${name}` }, stdio: 'ignore' })
  await once(child, 'spawn')
  const found = await processStat(child.pid ?? 0)
  return { kind: 'process', name, pid: found?.pid ?? 0, startTicks: found?.startTicks ?? '' }
}

t.test('a process: ended by pid and start time, and by its mark when only intended', async (t) => {
  const { ledger } = await opened(t)
  let pid = 0
  await ledger.acquire<OwnedProcess>({ kind: 'process', name: 'one' }, async () => {
    const made = await start('one')
    pid = made.pid
    return made
  })
  t.ok(await isAlive(pid, undefined))
  await ledger.release(({ kind }) => kind === 'process')
  t.notOk(await isAlive(pid, undefined))

  const failing = ledger.acquire<OwnedProcess>({ kind: 'process', name: 'two' }, async () => {
    ;({ pid } = await start('two'))
    throw new Error('a crash in the wrong moment')
  })
  await t.rejects(failing, { message: 'a crash in the wrong moment' })
  t.notOk(await isAlive(pid, undefined), 'found by its mark')

  const other = await start('three')
  await undo([{ kind: 'process', name: 'three', pid: other.pid, startTicks: '1' }], 's')
  t.ok(await isAlive(other.pid, undefined), 'another process of the same pid is left alone')
  await undo([other], 's')
})

t.test('writers meanwhile share a write; a forgotten sandbox stays forgotten', async (t) => {
  const { store: inner } = await opened(t)
  let writes = 0
  const store: RecordStore = {
    write(id, text) {
      writes++
      return inner.write(id, text)
    },
    remove: (id) => inner.remove(id),
    list: () => inner.list(),
    quarantine: (id) => inner.quarantine(id),
  }
  const ledger = new Ledger(record, store, undo)
  await Promise.all(Array.from({ length: 50 }, (_, index) => ledger.amend({ published: String(index) })))
  t.ok(writes <= 2, `${writes} writes for 50 changes`)
  t.match(parseRecord((await inner.list())[0]?.text ?? '', 's'), { published: '49' })
  const late = ledger.amend({ published: '50' })
  await ledger.remove()
  await late
  await ledger.amend({ published: '51' })
  t.same(await inner.list(), [])
  await t.rejects(ledger.acquire({ kind: 'file', path: '/x' }, async () => {}), { code: 'FAILED_PRECONDITION' })
})

t.test('records: private, whole, versioned', async (t) => {
  const { dir, store, ledger } = await opened(t)
  await ledger.save()
  t.equal((await stat(join(dir, 'ledger', 's.json'))).mode & 0o777, 0o600)
  t.equal((await stat(join(dir, 'ledger'))).mode & 0o777, 0o700)
  t.same(await readdir(join(dir, 'ledger')), ['s.json', 'unreadable'])
  await writeFile(join(dir, 'ledger', 's.json.tmp'), 'half a rec')
  t.equal((await (await DirectoryStore.open(join(dir, 'ledger'))).list()).length, 1)
  t.same(await readdir(join(dir, 'ledger')), ['s.json', 'unreadable'], 'a write that was cut off is forgotten')
  for (const text of ['', '{', '{}', '[]', JSON.stringify({ ...record, version: 2 }), JSON.stringify({ ...record, owned: [{ kind: 'moon' }] })])
    t.throws(() => parseRecord(text, 'it'), { code: 'INVALID_ARGUMENT' })
  t.same(parseRecord(JSON.stringify(record), 'it'), record)
  await store.quarantine('s')
  t.same(await store.list(), [])
})

t.test('what another ledger owns changes hands in one write', async (t) => {
  const { dir, store, ledger, onDisk } = await opened(t)
  const path = join(dir, 'thing')
  const other = new Ledger({ ...record, id: 'other' }, store, undo)
  await other.acquire({ kind: 'directory', path }, () => mkdir(path))
  await ledger.save()
  await ledger.takeOver(other, { vm: 'other' })
  t.match(await onDisk(), { vm: 'other', owned: [{ kind: 'directory', path }] })
  t.same((await store.list()).map(({ id }) => id), ['s'])
  await other.release(() => true)
  t.ok((await stat(path)).isDirectory(), 'the other has no hold on it any more')
  await ledger.release(() => true)
  await t.rejects(stat(path), { code: 'ENOENT' })
})

t.test('a change of hands that does not reach the disk leaves both able to undo it', async (t) => {
  const { dir, store } = await opened(t)
  const path = join(dir, 'thing')
  const full: RecordStore = { write: () => Promise.reject(new Error('disk full')), remove: () => Promise.resolve(), list: () => Promise.resolve([]), quarantine: () => Promise.resolve('') }
  const other = new Ledger({ ...record, id: 'other' }, store, undo)
  await other.acquire({ kind: 'directory', path }, () => mkdir(path))
  await t.rejects(new Ledger(record, full, undo).takeOver(other, {}), { message: 'disk full' })
  t.match((await store.list()).map(({ id }) => id), ['other'])
  await other.release(() => true)
  await t.rejects(stat(path), { code: 'ENOENT' })
})

t.test('a disk without room keeps the record before, and the error says where and what to do', async (t) => {
  const { dir, store, ledger, onDisk } = await opened(t)
  await ledger.save()
  // The kernel's own ENOSPC, where a record is written before it takes its place.
  await symlink('/dev/full', join(dir, 'ledger', 's.json.tmp'))
  await t.rejects(store.write('s', 'newer'), {
    code: 'RESOURCE_EXHAUSTED',
    message: /^the record of sandbox s cannot be written to \/tmp\/ledger-.*\/ledger\/s\.json: .*no space left.*; free some room there/,
  })
  t.same(await onDisk(), record)
  t.same(await readdir(join(dir, 'ledger')), ['s.json', 'unreadable'], 'half a record takes no room')
  await store.write('s', JSON.stringify({ ...record, vm: 'later' }))
  t.match(await onDisk(), { vm: 'later' }, 'with room again it goes on')
})

t.test('a sandbox whose last write found no room is forgotten all the same', async (t) => {
  const { dir, store } = await opened(t)
  const ledger = new Ledger({ ...record, owned: [{ kind: 'file', path: join(dir, 'gone') }] }, store, undo)
  await ledger.save()
  await symlink('/dev/full', join(dir, 'ledger', 's.json.tmp'))
  await t.rejects(ledger.release(() => true), { code: 'RESOURCE_EXHAUSTED' })
  await ledger.release(() => true)
  await ledger.remove()
  t.same(await store.list(), [])
})
