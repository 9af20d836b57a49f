/** A helper's panic is found in its log, wherever in time it came. */
import { appendFile, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { silentLog } from '#shared/log.ts'
import { boundLogs } from '#host/backends/microvm/logs.ts'
import { Panics, panicIn } from '#host/backends/microvm/panics.ts'

const noise = '[WARN vhost_device_vsock] vsock: dropping packet\n'
const panic = `
thread 'vring_worker' (171) panicked at vhost-device-vsock/src/vsock_conn.rs:193:63:
called \`Result::unwrap()\` on an \`Err\` value: Os { code: 32, kind: BrokenPipe, message: "Broken pipe" }
note: run with \`RUST_BACKTRACE=1\` environment variable to display a backtrace
`
const said = 'a thread panicked at vhost-device-vsock/src/vsock_conn.rs:193:63: called `Result::unwrap()` on an `Err` value: Os { code: 32, kind: BrokenPipe, message: "Broken pipe" }'

async function directory(t: Test): Promise<string> {
  const dir = await mkdtemp('/tmp/microvm-panics-')
  t.teardown(() => rm(dir, { recursive: true }))
  return dir
}

t.test('what a panic looks like', (t) => {
  t.equal(panicIn(noise + panic + noise), said)
  t.equal(panicIn("thread 'main' panicked at src/main.rs:1:1:"), 'a thread panicked at src/main.rs:1:1:', 'without a number, without a message')
  t.equal(panicIn(`thread 'x' panicked at a.rs:1:1:\n${'y'.repeat(9000)}`)?.length, 300)
  t.equal(panicIn(`${noise}the word panicked at large\n`), undefined)
  t.end()
})

t.test('one that comes while somebody watches', async (t) => {
  const dir = await directory(t)
  const panics = new Panics(dir, ['virtiofsd', 'vhost-device-vsock'])
  // A watch keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  using watched = boundLogs(dir, silentLog, (path) => panics.look(path))
  t.ok(watched)
  await appendFile(join(dir, 'console.log'), panic)
  await appendFile(join(dir, 'vhost-device-vsock.log'), noise.repeat(1000))
  await appendFile(join(dir, 'vhost-device-vsock.log'), panic)
  t.match(await panics.first, { name: 'vhost-device-vsock', said }, "and not the console's, which is the guest's to write")
})

t.test('one that came before', async (t) => {
  const dir = await directory(t)
  await appendFile(join(dir, 'virtiofsd.log'), noise + panic)
  const panics = new Panics(dir, ['virtiofsd', 'vhost-device-vsock'])
  await panics.look()
  t.match(await panics.first, { name: 'virtiofsd', said })
})
