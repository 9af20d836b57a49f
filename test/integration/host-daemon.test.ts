import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import type { MessageIn } from '#shared/rpc/any.ts'
import { LINK_PORT } from '#shared/link-port.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import { Daemon, rpc } from '#test/host/daemon.ts'

type PodConfig = MessageIn<'runtime.v1.PodSandboxConfig'>

const execute = promisify(execFile)
const namespaces = (options: object): PodConfig => ({ linux: { securityContext: { namespaceOptions: options } } })
const failing = (failure: string): PodConfig => ({ annotations: { 'io.kuasar.fake.fail': failure } })

t.test('a pod from Create to Shutdown', async (t) => {
  await using daemon = await Daemon.start()
  const { controller } = daemon
  daemon.ids.add('a1')
  const started = await daemon.run('a1', { metadata: { name: 'web', namespace: 'shop', uid: 'u', attempt: 0 } })
  t.match(started, { sandboxId: 'a1', pid: 0, version: 3, address: `ttrpc+unix://${daemon.dir}/sandboxes/a1/task.sock` })
  t.not(started.createdAt, null)
  t.equal(started.spec?.type_url, 'types.containerd.io/opencontainers/runtime-spec/1/Spec')
  t.same(JSON.parse(started.spec?.value.toString() ?? ''), { ociVersion: '1.2.0', linux: { namespaces: [], cgroupsPath: '/kuasar-test/kuasar-a1' } }, 'for NRI')
  const status = await controller.Status({ sandboxId: 'a1', verbose: true })
  t.match(status, { state: 'SANDBOX_READY', address: started.address, version: 3, pid: 0 })
  t.match(JSON.parse(status.info['info'] ?? ''), { state: 'ready', agent: { version: 'fake' } })
  t.match(await controller.Platform({ sandboxId: 'a1' }), { platform: { os: 'linux', architecture: 'amd64' } })
  t.match(await controller.Metrics({ sandboxId: 'a1' }), { metrics: { id: 'a1', data: { type_url: 'io.containerd.cgroups.v2.Metrics' } } })
  await controller.Update({ sandboxId: 'a1', fields: ['labels'] })
  await t.rejects(controller.Update({ sandboxId: 'a1', fields: ['extensions'], sandbox: { extensions: { 'updated-resources': { type_url: '', value: Buffer.alloc(0) } } } }), { code: 'UNIMPLEMENTED' })
  const waiting = controller.Wait({ sandboxId: 'a1' })
  await controller.Stop({ sandboxId: 'a1' })
  t.match(await waiting, { exitStatus: 0 })
  t.match(await controller.Status({ sandboxId: 'a1' }), { state: 'SANDBOX_NOTREADY' })
  t.match(await controller.Wait({ sandboxId: 'a1' }), { exitStatus: 0 }, 'answers at once')
  await controller.Stop({ sandboxId: 'a1' })
  await controller.Shutdown({ sandboxId: 'a1' })
  await controller.Shutdown({ sandboxId: 'a1' })
  await controller.Stop({ sandboxId: 'a1' })
  await t.rejects(controller.Status({ sandboxId: 'a1' }), { code: 'NOT_FOUND' })
  await t.rejects(controller.Wait({ sandboxId: 'a1' }), { code: 'NOT_FOUND' })
  t.same(await daemon.leftovers(), [])
})

t.test('a configuration that is wrong: exit status 78, and the file, key, value and what was expected on stderr', async (t) => {
  const dir = await mkdtemp('/tmp/k-')
  t.teardown(() => rm(dir, { recursive: true }))
  const file = `${dir}/config.toml`
  const main = fileURLToPath(new URL('../../host/main.ts', import.meta.url))
  const run = async (text: string, ...more: readonly string[]) => {
    await writeFile(file, text)
    return execute(process.execPath, [main, '--config', file, ...more]).then(() => ({ code: 0, stderr: '' }), ({ code, stderr }: { code: number; stderr: string }) => ({ code, stderr }))
  }
  const wrong = '[sandboxer]\nlog_levle = "info"\n[guest]\nvcpus = 0\n'
  const said = `kuasar sandboxer: ${file}: sandboxer: unknown key log_levle = "info"; did you mean log_level?\n${file}: guest.vcpus: 0 is not accepted: expected at least 1\n`
  for (const more of [[], ['--check']]) t.same(await run(wrong, ...more), { code: 78, stderr: said })
  t.match(await run('[backends.b]\nkind = "qemuu"\n', '--check'), { code: 78, stderr: `kuasar sandboxer: ${file}: backends.b.kind: "qemuu" is not accepted: expected one of fake, fake-shared, qemu\n` })
  t.match(await run('[backends.b]\nkind = "qemu"\nacel = "tcg"\n', '--check'), { code: 78, stderr: /backends\.b: unknown key acel = "tcg"; did you mean accel\?/ })
  t.same(await run('[backends.b]\nkind = "qemu"\naccel = "tcg"\n', '--check'), { code: 0, stderr: '' })
  t.match(await run('', '--config', `${dir}/none.toml`), { code: 78, stderr: /cannot read the configuration .*none\.toml/ })
})

t.test('what cannot be is refused at Create, and leaves nothing', async (t) => {
  await using daemon = await Daemon.start()
  await t.rejects(daemon.create('b', namespaces({ network: 'NODE' })), { code: 'INVALID_ARGUMENT', message: /hostNetwork.*cannot share the host's network namespace; remove the field/ })
  await t.rejects(daemon.create('b', namespaces({ pid: 'NODE', ipc: 'NODE' })), { code: 'INVALID_ARGUMENT', message: /hostPID, hostIPC/ })
  await t.rejects(daemon.create('b', namespaces({ usernsOptions: { mode: 'POD' } })), { code: 'INVALID_ARGUMENT', message: /hostUsers: false/ })
  await t.rejects(daemon.create('b', {}, 'kuasar-none'), { code: 'INVALID_ARGUMENT', message: /no backend is configured for the sandboxer "kuasar-none": add a table \[backends\.kuasar-none\]/ })
  await t.rejects(daemon.create('../b'), { code: 'INVALID_ARGUMENT', message: /sandbox id "..\/b" is not an identifier/ })
  await t.rejects(daemon.create('x'.repeat(77)), { code: 'INVALID_ARGUMENT' })
  await t.rejects(daemon.controller.Create({ sandboxId: 'b', sandboxer: 'kuasar-fake' }), { code: 'INVALID_ARGUMENT', message: /without options/ })
  await t.rejects(
    daemon.controller.Create({ sandboxId: 'b', sandboxer: 'kuasar-fake', options: { type_url: 'something.Else', value: Buffer.alloc(0) } }),
    { code: 'INVALID_ARGUMENT', message: /expected a runtime.v1.PodSandboxConfig, got "something.Else"/ },
  )
  await t.rejects(daemon.controller.Start({ sandboxId: 'b' }), { code: 'NOT_FOUND' })
  t.same(await daemon.leftovers(), [])
  await daemon.create('b', namespaces({ usernsOptions: { mode: 'NODE' } }))
  await t.rejects(daemon.create('b'), { code: 'ALREADY_EXISTS' })
  await t.rejects(daemon.controller.Metrics({ sandboxId: 'b' }), { code: 'FAILED_PRECONDITION', message: /sandbox b is created/ })
  await daemon.controller.Shutdown({ sandboxId: 'b' })
  t.same(await daemon.leftovers(), [])
})

t.test('a failed Start says where, why and what the console said, and undoes everything', async (t) => {
  await using daemon = await Daemon.start({ kind: 'fake-shared', more: '[limits]\nstart_ms = 2000' })
  const cases = [
    ['launch', 'launch', /the fake backend fails the launch/],
    ['hello', 'hello', /the guest's agent did not say hello within 2000 ms\nlast lines of the guest's console:\n  fake guest: booting\n  fake guest: will not say hello/],
    ['ready', 'ready', /did not say ready within 2000 ms[^]*fake guest: hello/],
    ['exit', 'ready', /the fake guest ended, as its pod asked/],
  ] as const
  for (const [failure, step, message] of cases) {
    const id = `f-${failure}`
    daemon.ids.add(id)
    const error: unknown = await daemon.run(id, failing(failure)).catch((thrown: unknown) => thrown)
    t.match(error, { message: new RegExp(`sandbox ${id}: start failed at step ${step}: `) })
    t.match(error, { message })
    t.same(await daemon.leftovers(), [], `${failure}: nothing left`)
    await t.rejects(daemon.controller.Status({ sandboxId: id }), { code: 'NOT_FOUND' })
  }
  daemon.ids.add('f-hello')
  t.match(await daemon.run('f-hello'), { version: 3 }, 'its name can be used again')
  await daemon.remove('f-hello')
  t.same(await daemon.leftovers(), [])
})

t.test('a Start that is given up, stopped or shut down on its way is undone', async (t) => {
  await using daemon = await Daemon.start({ backend: 'processes = true' })
  const waitingForHello = async (id: string) => {
    while (!(await daemon.admin.Console({ id })).lines.includes('fake guest: will not say hello'));
  }
  for (const [id, end] of [
    ['g-abort', undefined],
    ['g-stop', () => daemon.controller.Stop({ sandboxId: 'g-stop' })],
    ['g-shut', () => daemon.controller.Shutdown({ sandboxId: 'g-shut' })],
  ] as const) {
    daemon.ids.add(id)
    await daemon.create(id, failing('hello'))
    const abort = new AbortController()
    const starting = daemon.controller.Start({ sandboxId: id }, { signal: abort.signal }).catch((error: unknown) => error)
    await waitingForHello(id)
    if (end === undefined) abort.abort()
    else await end()
    t.match(await starting, { code: 'CANCELLED' })
    while ((await daemon.admin.List({})).sandboxes.length > 0);
    t.same(await daemon.leftovers(), [], id)
  }
})

t.test('a failed Start whose record cannot be removed has an end all the same, and Shutdown finishes it', async (t) => {
  await using daemon = await Daemon.start()
  daemon.ids.add('w')
  await daemon.create('w', failing('launch'))
  const waiting = daemon.controller.Wait({ sandboxId: 'w' })
  const record = `${daemon.dir}/ledger/w.json`
  // Nothing can be renamed over a mount point, nor can it be removed: EBUSY.
  await execute('mount', ['--bind', record, record])
  try {
    await t.rejects(daemon.controller.Start({ sandboxId: 'w' }), { message: /EBUSY/ })
    t.match(await waiting, { exitStatus: 137 })
    t.match(await daemon.controller.Status({ sandboxId: 'w' }), { state: 'SANDBOX_NOTREADY' })
    await t.rejects(daemon.controller.Shutdown({ sandboxId: 'w' }), { message: /EBUSY/ })
  } finally {
    await execute('umount', [record])
  }
  await daemon.controller.Shutdown({ sandboxId: 'w' })
  t.same(await daemon.leftovers(), [])
})

t.test('a guest that does not shut down is killed', async (t) => {
  await using daemon = await Daemon.start({ backend: 'processes = true', more: '[limits]\nstop_grace_ms = 100\nstop_ms = 200' })
  daemon.ids.add('h')
  await daemon.run('h', failing('shutdown'))
  t.equal((await daemon.guests()).length, 1)
  await daemon.controller.Shutdown({ sandboxId: 'h' })
  t.same(await daemon.leftovers(), [], 'Shutdown alone stops what runs')
})

t.test('a guest that says without end that it has started anew is ended once, and Stop has its turn', async (t) => {
  await using daemon = await Daemon.start({ backend: 'processes = true' })
  daemon.ids.add('r')
  await daemon.run('r')
  // So that it does not hear TERM, and its end takes a while.
  process.kill(await daemon.guest(), 'SIGSTOP')
  const waiting = daemon.controller.Wait({ sandboxId: 'r' })
  const { Hello } = new TtrpcClient(connect(`${daemon.dir}/sandboxes/r/vsock_${LINK_PORT}`)).calls(rpc.host)
  await Promise.allSettled(Array.from({ length: 2000 }, () => Hello({ protocolVersion: 1 })))
  t.match(await waiting, { exitStatus: 137 })
  await daemon.remove('r')
  t.notMatch(daemon.log, /unhandled rejection/)
  t.same(await daemon.leftovers(), [])
})

t.test('admin shows pods, records without what is secret, consoles and traces', async (t) => {
  await using daemon = await Daemon.start()
  await daemon.run('abc', { metadata: { name: 'web', namespace: 'shop', uid: 'u', attempt: 0 } })
  t.match(await daemon.admin.List({}), { sandboxes: [{ id: 'abc', backend: 'kuasar-fake', state: 'ready', podName: 'web', podNamespace: 'shop' }] })
  t.match(JSON.parse((await daemon.admin.Inspect({ id: 'ab' })).record), { id: 'abc', owned: [{ kind: 'directory' }, {}] })
  t.match(await daemon.admin.Console({ id: 'abc' }), { lines: ['fake guest: booting', 'fake guest: hello'] })
  const { spans } = await daemon.admin.Trace({ id: 'abc' })
  t.match(new Set(spans.map(({ name }) => name)), new Set(['create', 'directory', 'cgroup', 'link', 'launch', 'guest', 'guest.kernel', 'guest.init', 'ready', 'start']))
  t.equal(spans[0]?.name, 'create')
  for (const { name, startNanos, endNanos } of spans) t.ok(BigInt(endNanos) >= BigInt(startNanos), `${name} ends after its start`)
  await t.rejects(daemon.admin.Inspect({ id: 'b' }), { code: 'NOT_FOUND' })
  const ctl = (...args: string[]) => execute(process.execPath, [fileURLToPath(new URL('../../host/ctl/main.ts', import.meta.url)), '--socket', daemon.adminSocket, ...args])
  t.match((await ctl('list')).stdout, /^SANDBOX +STATE +BACKEND +PID +AGE +POD\nabc +ready +kuasar-fake +- +\d+s +shop\/web\n$/)
  t.match((await ctl('trace', 'abc')).stdout, /launch .*█|▏/)
  await t.rejects(ctl('inspect', 'nope'), { code: 1, stderr: /^kuasarctl: .*no sandbox has the id "nope"/ })
  await t.rejects(ctl('debug', 'abc', '1'), { code: 1, stderr: /^kuasarctl: .*looking into agents is off: set debug = true/ })
  for (const wrong of [['debug'], ['debug', 'abc', '1', '2'], ['heap', 'abc', 'file'], ['list', 'abc']]) await t.rejects(ctl(...wrong), { code: 64, stderr: /usage: kuasarctl/ })
  await t.rejects(ctl('profile', 'abc', '--seconds', 'x'), { code: 64, stderr: 'kuasarctl: --seconds x: expected a whole number\n' })
  await t.rejects(ctl('list', '--socket', `${daemon.dir}/none.sock`), { code: 1, stderr: /^kuasarctl: the sandboxer does not answer; is it running/ })
})

t.test('looking into agents, allowed: an agent that cannot be looked into says so', async (t) => {
  await using daemon = await Daemon.start({ sandboxer: 'debug = true' })
  await daemon.run('abc')
  await t.rejects(daemon.admin.Evaluate({ id: 'abc', expression: '1' }), { code: 'UNIMPLEMENTED' })
  await t.rejects(Array.fromAsync(daemon.admin.HeapSnapshot({ id: 'abc' })), { code: 'UNIMPLEMENTED' })
  await t.rejects(daemon.admin.Evaluate({ id: 'other', expression: '1' }), { code: 'NOT_FOUND' })
  await daemon.create('b')
  await t.rejects(daemon.admin.Evaluate({ id: 'b', expression: '1' }), { code: 'FAILED_PRECONDITION', message: /sandbox b is created/ })
})

t.test('SIGTERM ends it without an answer to anyone', async (t) => {
  await using daemon = await Daemon.start()
  await daemon.run('w')
  const waiting = daemon.controller.Wait({ sandboxId: 'w' }).catch((error: unknown) => error)
  await daemon.controller.Status({ sandboxId: 'w' })
  await daemon.signal('SIGTERM')
  t.match(await waiting, { code: 'UNAVAILABLE' }, 'which containerd takes for "ask again"')
})

t.test('two sandboxers of one directory', async (t) => {
  await using daemon = await Daemon.start()
  const second = execute(process.execPath, [fileURLToPath(new URL('../../host/main.ts', import.meta.url)), '--config', `${daemon.dir}/config.toml`])
  await t.rejects(second, { code: 78, stderr: new RegExp(`another sandboxer \\(process ${daemon.pid}\\) works in ${daemon.dir}: end it first`) })
  t.match(await daemon.run('still'), { version: 3 })
})
