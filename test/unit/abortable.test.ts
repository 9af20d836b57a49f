import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { abortable } from '#shared/abortable.ts'

t.test('what fails after it was given up is nobody’s unhandled rejection', async (t) => {
  const unhandled: unknown[] = []
  const note = (reason: unknown) => void unhandled.push(reason)
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const before = Promise.withResolvers<never>()
  await t.rejects(abortable(before.promise, AbortSignal.abort(new Error('given up'))), { message: 'given up' })
  const during = Promise.withResolvers<never>()
  const abort = new AbortController()
  const waiting = abortable(during.promise, abort.signal)
  abort.abort(new Error('enough'))
  await t.rejects(waiting, { message: 'enough' })
  for (const { reject } of [before, during]) reject(new Error('too late'))
  await setImmediate()
  t.same(unhandled, [])
})
