/** What a real sandboxer says of itself: counted truly, in the words of docs/metrics.md, to whom it may. */
import { execFile } from 'node:child_process'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { request } from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { Daemon } from '#test/host/daemon.ts'
import { exposed, type Exposed } from '#test/support/metrics.ts'

const execute = promisify(execFile)
const program = (path: string) => fileURLToPath(new URL(`../../host/${path}`, import.meta.url))
const backend = 'kuasar-fake'
const PROCESSES = { kind: 'fake-shared', backend: 'processes = true' } as const
const failing = (failure: string) => ({ annotations: { 'io.kuasar.fake.fail': failure } })
const read = async (daemon: Daemon): Promise<Exposed> => exposed((await daemon.admin.Metrics({})).text)

const page = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8')

/** Of docs/metrics.md: name → type and labels. */
function documented(): Map<string, { readonly type: string; readonly labels: readonly string[] }> {
  const rows = [...page.matchAll(/^\| `([a-z_]+)` \| (gauge|counter|histogram) \| (.*?) \|/gm)]
  return new Map(rows.map(([, name = '', type = '', labels = '']) => [name, { type, labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label).toSorted() }]))
}

t.test('starts, their failures, deaths and calls are counted, and what is gone is not there', async (t) => {
  await using daemon = await Daemon.start({ ...PROCESSES, more: '[limits]\nstart_ms = 2000' })
  const state = (metrics: Exposed, name: string) => metrics.value('kuasar_sandboxes', { backend, state: name })
  const none = await read(daemon)
  for (const name of ['created', 'starting', 'ready', 'stopping', 'stopped']) t.equal(state(none, name), 0, `none is ${name}`)
  t.equal(none.value('kuasar_start_failures_total', { backend, step: 'launch' }), 0, 'what has not happened is 0, not missing')

  await daemon.run('m-one')
  const first = await daemon.guest()
  await daemon.run('m-two')
  await daemon.create('m-three')
  for (const [id, failure] of [['m-launch', 'launch'], ['m-hello', 'hello'], ['m-exit', 'exit']] as const) await t.rejects(daemon.run(id, failing(failure)))
  const some = await read(daemon)
  t.equal(state(some, 'ready'), 2)
  t.equal(state(some, 'created'), 1)
  t.equal(some.value('kuasar_containers', { backend }), 0)
  t.equal(some.value('kuasar_start_seconds_count', { backend, kind: 'cold' }), 2)
  t.equal(some.value('kuasar_start_seconds_count', { backend, kind: 'warm' }), 0)
  for (const stage of ['create', 'directory', 'cgroup', 'link', 'network', 'launch', 'guest', 'ready', 'guest.kernel'])
    t.equal(some.value('kuasar_start_stage_seconds_count', { backend, kind: 'cold', stage }), 2, `stage ${stage}`)
  for (const [step, count] of [['launch', 1], ['hello', 1], ['ready', 1], ['network', 0], ['cancelled', 0]] as const)
    t.equal(some.value('kuasar_start_failures_total', { backend, step }), count, `failed at ${step}`)
  const controller = { service: 'containerd.services.sandbox.v1.Controller' }
  t.equal(some.value('kuasar_calls_total', { ...controller, method: 'Start', code: 'OK' }), 2)
  t.equal(some.value('kuasar_calls_total', { ...controller, method: 'Start', code: 'ABORTED' }), 3)
  t.equal(some.value('kuasar_call_seconds_count', { ...controller, method: 'Start' }), 5)
  t.equal(some.value('kuasar_calls_total', { service: 'kuasar.host.v1.Host', method: 'Hello', code: 'OK' }), 3, 'those of guests too')
  t.ok((some.value('kuasar_ledger_seconds_count', { operation: 'write' }) ?? 0) > 10)

  const waiting = daemon.controller.Wait({ sandboxId: 'm-one' })
  process.kill(first, 'SIGKILL')
  await waiting
  const after = await read(daemon)
  t.equal(after.value('kuasar_deaths_total', { backend, of: 'vmm', oom: 'false' }), 1)
  t.equal(after.value('kuasar_deaths_total'), 1, 'and of nothing else; a failed start is no death')
  t.equal(state(after, 'stopped'), 1)
  t.equal(after.value('kuasar_calls_total', { ...controller, method: 'Wait', code: 'OK' }), 1)
  t.equal(after.value('kuasar_call_seconds_count', { ...controller, method: 'Wait' }), undefined, 'which lasts as long as its pod')

  for (const id of ['m-one', 'm-two', 'm-three']) await daemon.remove(id)
  const end = await read(daemon)
  t.equal(end.value('kuasar_sandboxes'), 0, 'no sandbox is left')
  t.equal(end.value('kuasar_deaths_total'), 1, 'a stop is no death')
  t.equal(end.value('kuasar_ledger_failures_total'), 0)

  const table = documented()
  t.same([...end.types.keys()].toSorted(), [...table.keys()].toSorted(), 'docs/metrics.md has every metric, and none besides')
  for (const [name] of page.matchAll(/\b(kuasar|process|nodejs)_[a-z_]+/g)) t.ok(table.has(name.replace(/_count$/, '')), `${name}, in an alert or a hint, is one of them`)
  for (const [name, { type, labels }] of table) {
    t.equal(end.types.get(name), type, `${name} is a ${type}`)
    const carried = [...(end.labels.get(name) ?? [])].toSorted()
    // Only what has happened has labels.
    if (carried.length > 0) t.same(carried, labels, `labels of ${name}`)
  }
  t.same(await daemon.leftovers(), [])
})

t.test('a client that gives up, a record that cannot be written', async (t) => {
  await using daemon = await Daemon.start(PROCESSES)
  await daemon.create('m-given-up', failing('hello'))
  const abort = new AbortController()
  const starting = daemon.controller.Start({ sandboxId: 'm-given-up' }, { signal: abort.signal }).catch(() => {})
  while ((await read(daemon)).value('kuasar_start_oldest_seconds', { backend }) === 0);
  abort.abort()
  await starting
  while ((await read(daemon)).value('kuasar_sandboxes') !== 0);
  const given = await read(daemon)
  t.equal(given.value('kuasar_start_failures_total', { backend, step: 'cancelled' }), 1)
  t.equal(given.value('kuasar_start_failures_total'), 1)
  t.equal(given.value('kuasar_calls_total', { method: 'Start', code: 'CANCELLED' }), 1)

  await daemon.create('m-full')
  const record = `${daemon.dir}/ledger/m-full.json`
  // Nothing can be renamed over a mount point: EBUSY.
  await execute('mount', ['--bind', record, record])
  try {
    await t.rejects(daemon.controller.Start({ sandboxId: 'm-full' }))
    const full = await read(daemon)
    t.ok((full.value('kuasar_ledger_failures_total', { operation: 'write' }) ?? 0) > 0)
    t.equal(full.value('kuasar_start_failures_total', { backend, step: 'other' }), 1)
  } finally {
    await execute('umount', [record])
  }
  await daemon.controller.Shutdown({ sandboxId: 'm-full' })
})

t.test('a restart: what is adopted, what was lost, and the counters begin anew', async (t) => {
  await using daemon = await Daemon.start(PROCESSES)
  await daemon.run('m-dies')
  const dies = await daemon.guest()
  for (const id of ['m-a', 'm-b']) await daemon.run(id)
  await daemon.create('m-created')
  await daemon.end('SIGKILL')
  process.kill(dies, 'SIGKILL')
  await writeFile(`${daemon.dir}/ledger/m-damaged.json`, '{')
  await daemon.start()
  const metrics = await read(daemon)
  for (const [result, count] of [['adopted', 2], ['lost', 1], ['undone', 0], ['unreadable', 1], ['stray', 0]] as const)
    t.equal(metrics.value('kuasar_recovered_total', { result }), count, result)
  for (const [state, count] of [['ready', 2], ['stopped', 1], ['created', 1], ['adopting', 0]] as const)
    t.equal(metrics.value('kuasar_sandboxes', { backend, state }), count, state)
  t.equal(metrics.value('kuasar_start_seconds_count'), 0, 'those starts were another’s')
  t.ok(await until(daemon, (now) => (now.value('kuasar_heartbeats_total', { backend, result: 'answered' }) ?? 0) >= 2), 'and they are listened to')
  for (const id of ['m-dies', 'm-a', 'm-b', 'm-created']) await daemon.remove(id)
  t.same(await daemon.leftovers(), [])
})

t.test('a warm VM, and the pod that claims it', async (t) => {
  await using daemon = await Daemon.start({ ...PROCESSES, backend: 'processes = true\nwarm = 1' })
  t.ok(await until(daemon, (now) => now.value('kuasar_warm_vms', { backend, state: 'warm' }) === 1))
  await daemon.run('m-warm')
  t.ok(await until(daemon, (now) => now.value('kuasar_warm_vms', { backend, state: 'warm' }) === 1), 'there is another')
  const metrics = await read(daemon)
  t.equal(metrics.value('kuasar_warm_vms_wanted', { backend }), 1)
  t.equal(metrics.value('kuasar_warm_vms_total', { backend, fate: 'claimed' }), 1)
  t.equal(metrics.value('kuasar_warm_vms_total'), 1)
  t.equal(metrics.value('kuasar_warm_boot_seconds_count', { backend }), 2)
  t.equal(metrics.value('kuasar_start_seconds_count', { backend, kind: 'warm' }), 1)
  t.equal(metrics.value('kuasar_start_stage_seconds_count', { backend, kind: 'warm', stage: 'claim' }), 1)
  await daemon.remove('m-warm')
  await daemon.end('SIGTERM')
  t.same(await daemon.leftovers(), [])
})

t.test('GET /metrics where the configuration says so, and by kuasarctl', async (t) => {
  const port = await freePort()
  await using daemon = await Daemon.start({ more: `[metrics]\naddress = "127.0.0.1:${port}"` })
  const answer = await fetch(`http://127.0.0.1:${port}/metrics`)
  t.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  t.equal(exposed(await answer.text()).value('kuasar_sandboxes'), 0)
  const { stdout } = await execute(program('ctl/kuasarctl'), ['--socket', daemon.adminSocket, 'metrics'])
  t.equal(exposed(stdout).value('kuasar_build_info', { version: '0.1.0', node: process.version }), 1)
  await t.rejects(execute(program('ctl/kuasarctl'), ['--socket', daemon.adminSocket, 'metrics', 'abc']), { code: 64, stderr: /usage: kuasarctl/ })
  // A second one with the same address: it says so, and does not start.
  await using other = await Daemon.prepare({ more: `[metrics]\naddress = "127.0.0.1:${port}"` })
  const refused = execute(process.execPath, [program('main.ts'), '--config', `${other.dir}/config.toml`])
  await t.rejects(refused, { code: 78, stderr: new RegExp(`^kuasar sandboxer: ${other.dir}/config.toml: metrics.address: cannot listen on "127.0.0.1:${port}": listen EADDRINUSE`, 'm') })

  await daemon.end('SIGTERM')
  const path = `${daemon.dir}/metrics.sock`
  await daemon.configure({ more: `[metrics]\naddress = "${path}"` })
  for (const life of ['its first life', 'after a SIGKILL, which leaves the file']) {
    await daemon.start()
    t.equal((await stat(path)).mode & 0o777, 0o600, life)
    const asked = request({ socketPath: path, path: '/metrics' }).end()
    const [response] = await once(asked, 'response')
    t.equal(exposed(await text(response)).value('kuasar_sandboxes'), 0)
    await daemon.end('SIGKILL')
  }
  await daemon.configure({ more: '[metrics]\naddress = "9464"' })
  const check = execute(process.execPath, [program('main.ts'), '--check', '--config', `${daemon.dir}/config.toml`])
  await t.rejects(check, { code: 78, stderr: /config\.toml: metrics\.address: "9464" is not accepted: expected host:port, / })
})

async function until(daemon: Daemon, is: (metrics: Exposed) => boolean): Promise<boolean> {
  for (let polls = 0; polls < 3_000; polls++) if (is(await read(daemon))) return true
  return false
}

/** Of loopback's: another process may take it meanwhile, and then the test fails loudly. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (typeof address !== 'object' || address === null) throw new Error('a listening server has no address')
  return address.port
}
