import t from 'tap'
import { asRuntimeError, explain, RuntimeError } from '#shared/errors.ts'

t.test('an explanation goes down to the last cause, and says nothing twice', async (t) => {
  const root = new Error('connect ENOENT /x.sock')
  const middle = new RuntimeError('UNAVAILABLE', `the agent: ${root.message}`, { cause: root })
  t.equal(explain(new Error('cannot ask', { cause: middle })), 'cannot ask: the agent: connect ENOENT /x.sock')
  t.equal(explain(new Error('', { cause: 'told' })), 'told')
  t.equal(explain(new Error('outer', { cause: new Error('inner') })), 'outer: inner')
})

t.test('whatever was thrown has a text', async (t) => {
  const circle: Record<string, unknown> = {}
  circle['itself'] = circle
  const thrown = [
    [circle, '[object Object]'],
    [Object.create(null), '{}'],
    [{ why: 'so' }, '{"why":"so"}'],
    [7n, '7'],
    [Symbol('s'), 'Symbol(s)'],
    [null, 'null'],
  ] as const
  for (const [value, text] of thrown) {
    t.equal(asRuntimeError(value).message, text)
    t.equal(explain(new Error('outer', { cause: value })), `outer: ${text}`)
  }
})
