/** The sandboxes of a node together: how many there may be. Records are kept in memory here; nothing is started. */
import t from 'tap'
import { sandboxesOf } from '#test/support/sandboxes.ts'

/** As SPECIFICATION.md has it. */
const SANDBOXES_MAX = 4096

t.test('so many sandboxes, and one more once one has gone', async (t) => {
  const { store, sandboxes, create } = sandboxesOf(t)
  for (let index = 0; index < SANDBOXES_MAX; index++) await create(`s${index}`)
  t.equal(sandboxes.all.length, SANDBOXES_MAX)
  const beyond = { code: 'RESOURCE_EXHAUSTED', message: /holds 4096 sandboxes, which is the limit/ }
  await t.rejects(create('beyond'), beyond)
  t.equal(sandboxes.find('beyond'), undefined)
  t.notOk(store.records.has('beyond'), 'nothing of it is on record')
  t.equal(store.records.size, SANDBOXES_MAX)
  await t.rejects(create('s0'), { code: 'ALREADY_EXISTS' }, 'of one that is there, that is said')

  await sandboxes.get('s0').shutdown()
  t.match(await create('beyond'), { id: 'beyond' })
  await t.rejects(create('s0'), beyond)
})
