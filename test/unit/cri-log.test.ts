import t from 'tap'
import { parseLog } from '#test/cri/log.ts'

const time = '2026-11-22T03:38:21.447760746Z'

t.test('whole lines, in order, with their streams', async (t) => {
  const lines = parseLog(`${time} stdout F one\n${time} stderr F two words\n${time} stdout F \n`)
  t.strictSame(lines, [
    { time, stream: 'stdout', text: 'one' },
    { time, stream: 'stderr', text: 'two words' },
    { time, stream: 'stdout', text: '' },
  ])
})

t.test('entries of one long line are joined, each stream for itself', async (t) => {
  const lines = parseLog(`${time} stdout P lo\n${time} stderr F e\n${time} stdout F ng\n${time} stdout P rest\n`)
  t.strictSame(lines.map(({ stream, text }) => `${stream} ${text}`), ['stderr e', 'stdout long', 'stdout rest'])
})

t.test('an entry that is being written is not read yet', async (t) => {
  t.strictSame(parseLog(`${time} stdout F one\n${time} std`).length, 1)
  t.strictSame(parseLog(''), [])
})

t.test('anything else is refused', async (t) => {
  t.throws(() => parseLog('hello\n'), /not an entry of a CRI log: "hello"/)
  t.throws(() => parseLog(`${time} stdin F x\n`), /not an entry/)
})
