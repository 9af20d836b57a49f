/**
 * SIGKILL of the sandboxer at every durable write of a sandbox's whole life, before and after it. Whatever the moment:
 * a fresh sandboxer comes up, knows the sandbox or has undone it, and nothing is left after its removal.
 */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Daemon } from '#test/host/daemon.ts'

/** Its cgroup is named after it, in the machine's one tree. */
const ID = `crashed-${process.pid}`
/** More writes than a life has; a life that passes without a crash ends the walk. */
const WRITES_MAX = 60
const crashing = fileURLToPath(new URL('../host/crashing.ts', import.meta.url))

/** True when the sandboxer survived. */
async function live(daemon: Daemon): Promise<boolean> {
  try {
    await daemon.run(ID)
    await daemon.remove(ID)
    return true
  } catch {
    return false
  }
}

for (const when of ['before', 'after'] as const)
  t.test(`killed ${when} each write`, async (t) => {
    let survived = false
    for (let at = 1; !survived && at < WRITES_MAX; at++) {
      await using daemon = await Daemon.prepare({ kind: 'fake-shared', backend: 'processes = true' })
      daemon.ids.add(ID)
      await daemon.start({ main: crashing, env: { CRASH_AT: String(at), CRASH_WHEN: when } })
      survived = await live(daemon)
      if (survived) {
        t.ok(at > 10, `a life of ${at - 1} writes`)
        continue
      }
      await daemon.ended()
      await daemon.start()
      const { sandboxes } = await daemon.admin.List({})
      const state = sandboxes[0]?.state ?? 'gone'
      // A stop that was cut off goes on while the sandboxer already serves: it may be seen at it.
      t.match(state, /^(gone|created|ready|stopping|stopped)$/)
      if (state === 'gone') t.same(await daemon.leftovers(), [], `write ${at}: undone without being asked`)
      if (state === 'ready') t.match(await daemon.controller.Metrics({ sandboxId: ID }), { metrics: { id: ID } }, `write ${at}: adopted, its guest answers`)
      await daemon.remove(ID)
      t.same(await daemon.leftovers(), [], `write ${at}: found ${state}, nothing left`)
      await t.rejects(daemon.controller.Status({ sandboxId: ID }), { code: 'NOT_FOUND' })
      await daemon.run(ID)
      await daemon.remove(ID)
      t.same(await daemon.leftovers(), [], `write ${at}: and works`)
    }
    t.ok(survived)
  })
