/**
 * SIGKILL of the sandboxer at every durable write until a pod that claims a warm VM is ready: while the VM boots, while it
 * changes hands, and after. Whatever the moment, a fresh sandboxer knows the pod or has undone it, and once the pod and the
 * VMs that wait are gone, so is everything. (What follows is the life of any pod: host-crash.test.ts.)
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parseRecord } from '#host/sandbox/record.ts'
import { Daemon } from '#test/host/daemon.ts'

const ID = `warmed-${process.pid}`
/** More writes than it takes; one that passes without a crash ends the walk. */
const WRITES_MAX = 60
const POLL_MS = 20
const crashing = fileURLToPath(new URL('../host/crashing.ts', import.meta.url))
const cold = { kind: 'fake-shared', backend: 'processes = true' } as const
const warm = { kind: 'fake-shared', backend: 'processes = true\nwarm = 1' } as const

const states = async (daemon: Daemon): Promise<string[]> => (await daemon.admin.List({})).sandboxes.map(({ state }) => state)

/** The cgroups of VMs are named after them. */
async function learnIds(daemon: Daemon): Promise<void> {
  for (const name of [...(await readdir(join(daemon.dir, 'ledger'))), ...(await readdir(join(daemon.dir, 'sandboxes')))]) daemon.ids.add(name.replace(/\.json$/, ''))
}

/** Ends by itself or by the sandboxer's death. */
async function live(daemon: Daemon): Promise<'survived' | 'killed'> {
  try {
    while (!(await states(daemon)).includes('warm')) await sleep(POLL_MS)
    await daemon.run(ID)
    return 'survived'
  } catch {
    return 'killed'
  }
}

for (const when of ['before', 'after'] as const)
  t.test(`killed ${when} each write`, async (t) => {
    let survived = false
    for (let at = 1; !survived && at < WRITES_MAX; at++) {
      await using daemon = await Daemon.prepare(warm)
      daemon.ids.add(ID)
      await daemon.start({ main: crashing, env: { CRASH_AT: String(at), CRASH_WHEN: when } })
      survived = (await live(daemon)) === 'survived'
      // It may be meeting its end right now: the next VM is on its way.
      await (survived ? daemon.end('SIGKILL') : daemon.ended())
      if (survived) t.match(parseRecord(await readFile(join(daemon.dir, 'ledger', `${ID}.json`), 'utf8'), ID), { vm: /^_warm-/, state: 'ready' }, `${at - 1} writes to a pod on a warm VM`)
      await learnIds(daemon)
      await daemon.configure(cold)
      await daemon.start()
      // What a former sandboxer had waiting is ended beside the service.
      while ((await readdir(join(daemon.dir, 'ledger'))).some((name) => name.startsWith('_warm'))) await sleep(POLL_MS)
      const [state = 'gone'] = await states(daemon)
      t.match(state, /^(gone|created|ready|stopping|stopped)$/)
      if (state === 'gone') t.same(await daemon.leftovers(), [], `write ${at}: undone without being asked`)
      if (state === 'ready') t.match(await daemon.controller.Metrics({ sandboxId: ID }), { metrics: { id: ID } }, `write ${at}: adopted, its guest answers`)
      await daemon.remove(ID)
      t.same(await daemon.leftovers(), [], `write ${at}: found ${state}, nothing left`)
    }
    t.ok(survived)
  })
