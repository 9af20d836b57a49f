/**
 * Volumes whose server does not answer: a file system in user space that nobody serves.
 * Runs in a mount namespace of its own, with 8 threads for files (see container-mounts.test.ts).
 */
import { closeSync, constants, mkdirSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { Lab, native } from './container-lab.ts'
import { bind } from './container-spec.ts'

const PATIENCE_MS = 20_000

await t.test('they hold up their own pod and no other', async (t) => {
  await using lab = new Lab()
  const server = openSync('/dev/fuse', constants.O_RDWR)
  const dir = join(lab.base, 'volumes')
  mkdirSync(dir)
  // A failure shall be one, not a test that never ends.
  const patience = setTimeout(() => {
    t.fail('the other pod waits as well')
    closeSync(server)
  }, PATIENCE_MS)
  native.mount({ source: 'nobody', target: dir, type: 'fuse', options: [`fd=${server}`, 'rootmode=40000', 'user_id=0', 'group_id=0'] })
  try {
    const [stuck, other] = [await lab.sandbox('s1'), await lab.sandbox('s2')]
    for (const id of ['a', 'b']) stuck.add(id, { mounts: Array.from({ length: 16 }, (_, index) => bind(join(dir, `v${index}`), `/v${index}`)) })
    const waiting = ['a', 'b'].map((id) => stuck.prepare(id))
    for (const prepared of waiting) prepared.catch(() => {})
    other.add('c')
    await other.prepare('c')
    t.equal((await other.asGuest('cat c/rootfs/name')).stdout, 'c')
    t.ok(await readFile('/proc/self/stat', 'utf8'))
    clearTimeout(patience)
    closeSync(server)
    for (const prepared of waiting) await t.rejects(prepared)
    await other.release('c')
  } finally {
    native.unmount(dir, true)
  }
})
