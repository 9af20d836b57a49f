/** A log stays within its bounds, whatever writes to it, and keeps its end. */
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { createWriteStream, statSync, watch } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createLog, type LogRecord, silentLog } from '#shared/log.ts'
import { LOG_BYTES_HARD_MAX, LOG_BYTES_MAX, boundLogs, cutLog, limitFileSize } from '#host/backends/microvm/logs.ts'
import { startProcess } from '#host/backends/microvm/process.ts'

async function directory(t: Test): Promise<string> {
  const dir = await mkdtemp('/tmp/microvm-logs-')
  t.teardown(() => rm(dir, { recursive: true }))
  return dir
}

async function append(path: string, text: string): Promise<void> {
  const stream = createWriteStream(path, { flags: 'a' })
  stream.end(text)
  await once(stream, 'close')
}

const filler = `${'x'.repeat(99)}\n`.repeat(Math.ceil(LOG_BYTES_MAX / 100))

t.test('a cut keeps the end, a log within its limit is left alone', async (t) => {
  const path = join(await directory(t), 'console.log')
  await append(path, `first\n${filler}last\n`)
  await cutLog(path)
  const text = await readFile(path, 'utf8')
  t.ok(text.length < LOG_BYTES_MAX / 10)
  t.ok(text.endsWith('x\nlast\n'))
  await cutLog(path)
  t.equal(await readFile(path, 'utf8'), text)
  await cutLog(join(path, '..', 'none.log'))
})

t.test('a growing log is cut without being asked for', async (t) => {
  const dir = await directory(t)
  const path = join(dir, 'console.log')
  using bounded = boundLogs(dir, silentLog)
  t.ok(bounded)
  const { promise: shrunk, resolve } = Promise.withResolvers<void>()
  const watcher = watch(dir, () => {
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
    if (size > 0 && size <= LOG_BYTES_MAX && grown) resolve()
    grown ||= size > LOG_BYTES_MAX
  })
  t.teardown(() => watcher.close())
  let grown = false
  await append(path, filler)
  await shrunk
  t.ok((await stat(path)).size <= LOG_BYTES_MAX)
})

t.test('what cannot be watched is said, and no more', async (t) => {
  const said: LogRecord[] = []
  using bounded = boundLogs(join(await directory(t), 'none'), createLog((record) => said.push(record), () => 'info'))
  t.ok(bounded)
  t.match(said, [{ level: 'warn', message: 'logs are not bounded', fields: { error: { code: 'ENOENT' } } }])
})

t.test('while nobody cuts, the kernel holds the writer, who lives', async (t) => {
  const dir = await directory(t)
  const logFile = join(dir, 'console.log')
  // The limit comes while it waits for its first line, as a VMM's does while its guest boots.
  const script = `until [ -e go ]; do sleep 0.01; done; yes ${'y'.repeat(1000)} | head -c ${2 * LOG_BYTES_HARD_MAX}; echo > done; sleep 600`
  const command = { file: '/bin/sh', args: ['-c', script] }
  const process = startProcess({ sandboxId: 'sb', name: 'vmm', command, cgroupProcs: [], netnsPath: undefined, privileged: true, dir, logFile })
  t.teardown(() => process.kill())
  await limitFileSize(process.pid)
  await append(join(dir, 'go'), '')
  while ((await stat(join(dir, 'done')).catch(() => undefined)) === undefined) await new Promise((resolve) => setTimeout(resolve, 5))
  t.equal((await stat(logFile)).size, LOG_BYTES_HARD_MAX)
  t.equal(process.ended(), undefined)
})
