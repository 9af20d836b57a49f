import t from 'tap'
import { explain, RuntimeError } from '#shared/errors.ts'

t.test('an explanation goes down to the last cause, and says nothing twice', async (t) => {
  const root = new Error('connect ENOENT /x.sock')
  const middle = new RuntimeError('UNAVAILABLE', `the agent: ${root.message}`, { cause: root })
  t.equal(explain(new Error('cannot ask', { cause: middle })), 'cannot ask: the agent: connect ENOENT /x.sock')
  t.equal(explain(new Error('', { cause: 'told' })), 'told')
  t.equal(explain(new Error('outer', { cause: new Error('inner') })), 'outer: inner')
})
