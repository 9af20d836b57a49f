/** What is counted of whom, and who may ask. */
import { once } from 'node:events'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { parseMetricsAddress, type MetricsAddress } from '#host/config/metrics.ts'
import { CONNECTIONS_MAX, serveMetrics } from '#host/metrics/listener.ts'
import { createMetrics } from '#host/metrics/metrics.ts'
import { exposed } from '#test/support/metrics.ts'
import { MemoryStore } from '#test/support/sandboxes.ts'

const backend = 'kuasar-fake'
const create = () => createMetrics({ backends: new Map([[backend, 2]]), version: '1.2.3' })
const span = (name: string, ms: number, source = 'guest') => ({ name, startMs: 1000, endMs: 1000 + ms, source })

t.test('a guest’s words are no labels, and its claims count once', async (t) => {
  const metrics = create()
  const invented = Array.from({ length: 500 }, (_, index) => span(`guest.x${index}`, 1))
  metrics.observer.started(backend, 'cold', [span('start', 2_000, 'sandboxer'), span('launch', 100, 'sandboxer'), span('guest.init', 10), span('guest.init', 3_000), span('guest.kernel', -5), ...invented])
  const { value, series } = exposed(await metrics.text())
  t.equal(value('kuasar_start_seconds_sum', { kind: 'cold' }), 2)
  t.equal(value('kuasar_start_stage_seconds_sum', { stage: 'launch' }), 0.1)
  t.equal(value('kuasar_start_stage_seconds_count', { stage: 'guest.init' }), 1)
  t.equal(value('kuasar_start_stage_seconds_sum', { stage: 'guest.init' }), 3)
  t.equal(value('kuasar_start_stage_seconds_sum', { stage: 'guest.kernel' }), 0, 'a claim that ends before it starts')
  t.equal(value('kuasar_start_stage_seconds_count'), 3, 'what it has invented is left out')
  for (const name of ['prepare', 'guest.crun-create', 'guest.x']) metrics.observer.containerSpan(backend, span(name, 500))
  const later = exposed(await metrics.text())
  t.equal(later.value('kuasar_container_stage_seconds_count'), 2)
  t.ok(later.series - series <= 2 * 15)
})

t.test('refusals of guests’ calls, and no other’s', async (t) => {
  const metrics = create()
  const report = { path: '/kuasar.host.v1.Host/Ready', kind: 'unary', message: 'what a guest sent', durationMs: 5 } as const
  for (const code of ['OK', 'INVALID_ARGUMENT', 'FAILED_PRECONDITION', 'UNAVAILABLE'] as const) metrics.onGuestCall({ ...report, code })
  metrics.onCall({ ...report, path: '/containerd.services.sandbox.v1.Controller/Start', code: 'INVALID_ARGUMENT' })
  metrics.onGuestRefused('log')
  const text = await metrics.text()
  const { value } = exposed(text)
  t.equal(value('kuasar_guest_refusals_total', { kind: 'call' }), 2)
  t.equal(value('kuasar_guest_refusals_total', { kind: 'log' }), 1)
  t.equal(value('kuasar_calls_total', { service: 'kuasar.host.v1.Host', method: 'Ready' }), 4)
  t.equal(value('kuasar_call_seconds_sum', { method: 'Start' }), 0.005)
  t.notMatch(text, /what a guest sent/)
})

t.test('a ledger that cannot be written is counted, and fails all the same', async (t) => {
  const metrics = create()
  const memory = new MemoryStore()
  const store = metrics.store(memory)
  await store.write('a', '{}')
  memory.full = true
  await t.rejects(store.write('b', '{}'), { message: 'no room' })
  await store.remove('a')
  const { value } = exposed(await metrics.text())
  t.equal(value('kuasar_ledger_failures_total', { operation: 'write' }), 1)
  t.equal(value('kuasar_ledger_seconds_count', { operation: 'write' }), 1)
  t.equal(value('kuasar_ledger_seconds_count', { operation: 'remove' }), 1)
})

t.test('containerd comes and goes', async (t) => {
  const metrics = create()
  const up = async () => exposed(await metrics.text()).value('kuasar_containerd_up')
  t.equal(await up(), 0)
  const seen: unknown[] = []
  for await (const news of metrics.presence((async function* () { yield* ['up', 'down', 'up'] as const })())) seen.push([news, await up()])
  t.same(seen, [['up', 1], ['down', 0], ['up', 1]])
})

t.test('forwards are what their owner has counted, however often one asks', async (t) => {
  const metrics = create()
  const counted = { open: 1, carried: 3, refused: 2, failed: 1, bytesIn: 10, bytesOut: 20 }
  metrics.watch({ sandboxes: { all: [] }, warm: { all: [] }, forwards: { counts: () => counted } })
  await metrics.text()
  const { value } = exposed(await metrics.text())
  t.equal(value('kuasar_forwards_open'), 1)
  t.same(['carried', 'refused', 'failed'].map((result) => value('kuasar_forwards_total', { result })), [3, 2, 1])
  t.same(['in', 'out'].map((direction) => value('kuasar_forward_bytes_total', { direction })), [10, 20])
})

t.test('addresses', async (t) => {
  t.match(parseMetricsAddress('127.0.0.1:9464'), { kind: 'tcp', host: '127.0.0.1', port: 9464 })
  t.match(parseMetricsAddress('[::1]:1'), { kind: 'tcp', host: '::1', port: 1 })
  t.match(parseMetricsAddress('localhost:65535'), { kind: 'tcp', host: 'localhost', port: 65535 })
  t.match(parseMetricsAddress('/run/kuasar/metrics.sock'), { kind: 'unix', path: '/run/kuasar/metrics.sock' })
  for (const wrong of ['', ':9464', '9464', 'a:0', 'a:65536', 'a:b', '::1:9464', 'run/x', `/${'x'.repeat(107)}`, '/a\0b', 'http://a:1']) t.equal(parseMetricsAddress(wrong), undefined, JSON.stringify(wrong))
})

/** On a unix socket, until the test ends. */
async function serving(t: Test) {
  const dir = await mkdtemp('/tmp/metrics-')
  const path = `${dir}/metrics.sock`
  const address: MetricsAddress = { kind: 'unix', path, text: path }
  const serve = () => serveMetrics(address, 'config.toml: metrics.address', { contentType: 'text/plain', text: async () => 'x 1\n' })
  t.teardown(() => rm(dir, { recursive: true }))
  return { path, serve }
}

async function ask(path: string, sent: string): Promise<string> {
  const socket = connect(path)
  await once(socket, 'connect')
  socket.write(sent)
  return text(socket)
}

t.test('GET /metrics is answered, and nothing else', async (t) => {
  const { path, serve } = await serving(t)
  await using _ = await serve()
  t.equal((await stat(path)).mode & 0o777, 0o600)
  t.match(await ask(path, 'GET /metrics HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain\r\n[^]*\r\n\r\nx 1\n$/)
  t.match(await ask(path, 'GET /metrics?x=1 HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /)
  for (const other of ['/', '/metrics/', '/debug', '/metrics/../metrics']) t.match(await ask(path, `GET ${other} HTTP/1.1\r\nhost: a\r\n\r\n`), /^HTTP\/1\.1 404 /, other)
  for (const method of ['POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS'])
    t.match(await ask(path, `${method} /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\nbody`), /^HTTP\/1\.1 405 [^]*\r\nallow: GET\r\n/, method)
  t.match(await ask(path, 'nonsense\r\n\r\n'), /^HTTP\/1\.1 400 /)
  t.match(await ask(path, `GET /metrics HTTP/1.1\r\nhost: a\r\nx: ${'x'.repeat(9_000)}\r\n\r\n`), /^HTTP\/1\.1 431 /, 'headers beyond the limit')
})

t.test('so many connections, and one more is closed; a request that does not come ends its own', async (t) => {
  const { path, serve } = await serving(t)
  await using _ = await serve()
  const silent: Socket[] = []
  for (let count = 0; count < CONNECTIONS_MAX; count++) {
    const socket = connect(path)
    await once(socket, 'connect')
    socket.write('GET /metrics HTTP/1.1\r\n')
    silent.push(socket.on('error', () => {}))
  }
  t.equal(await ask(path, 'GET /metrics HTTP/1.0\r\n\r\n').catch(() => ''), '', 'one too many')
  const answers = await Promise.all(silent.map((socket) => text(socket)))
  t.ok(answers.every((answer) => answer.startsWith('HTTP/1.1 408 ')), 'each is answered when its time is over')
  t.match(await ask(path, 'GET /metrics HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /, 'and there is room again')
})

t.test('what is in its way: a socket that nobody serves goes, anything else is an error', async (t) => {
  const { path, serve } = await serving(t)
  await writeFile(path, 'somebody’s')
  await t.rejects(serve(), { code: 'UNAVAILABLE', message: new RegExp(`^config.toml: metrics.address: cannot listen on "${path}": listen EADDRINUSE`) })
  t.equal((await stat(path)).size, Buffer.byteLength('somebody’s'), 'it is not touched')
})
