import { readFile, readdir, writeFile } from 'node:fs/promises'
import t from 'tap'
import { processStat } from '#host/sandbox/processes.ts'
import { Daemon } from '#test/host/daemon.ts'

const PROCESSES = { kind: 'fake-shared', backend: 'processes = true' } as const

t.test('guests outlive their sandboxer, and the next one knows them', async (t) => {
  await using daemon = await Daemon.start(PROCESSES)
  daemon.ids.add('n1')
  const { address } = await daemon.run('n1')
  const pid = await daemon.guest()
  const trace = async () => (await daemon.admin.Trace({ id: 'n1' })).spans.map(({ name }) => name)
  const traced = await trace()
  t.equal(traced[0], 'create')
  const cgroups = await readFile(`/proc/${pid}/cgroup`, 'utf8')
  t.match(cgroups, /kuasar-test\/kuasar-n1/, 'it runs in the pod’s cgroup')
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    await daemon.end(signal)
    t.same(await daemon.guests(), [pid], `runs on after ${signal}`)
    await daemon.start()
    t.match(await daemon.controller.Status({ sandboxId: 'n1' }), { state: 'SANDBOX_READY', address, version: 3 })
    t.match(await daemon.controller.Metrics({ sandboxId: 'n1' }), { metrics: { id: 'n1' } }, 'and its guest answers')
    t.strictSame(await trace(), traced, 'and where its start went is still known')
  }
  const waiting = daemon.controller.Wait({ sandboxId: 'n1' })
  process.kill(pid, 'SIGKILL')
  t.match(await waiting, { exitStatus: 137 }, 'the death of an adopted guest is noticed')
  t.match(await daemon.controller.Status({ sandboxId: 'n1' }), { state: 'SANDBOX_NOTREADY' })
  await daemon.remove('n1')
  t.same(await daemon.leftovers(), [])
})

t.test('a pod that was stopped before it was started is stopped for the next sandboxer too', async (t) => {
  await using daemon = await Daemon.start(PROCESSES)
  daemon.ids.add('s')
  await daemon.create('s')
  await daemon.controller.Stop({ sandboxId: 's' })
  await daemon.end('SIGKILL')
  await daemon.start()
  t.match(await daemon.controller.Wait({ sandboxId: 's' }), { exitStatus: 0 })
  await t.rejects(daemon.controller.Start({ sandboxId: 's' }), { code: 'FAILED_PRECONDITION' })
  await daemon.controller.Shutdown({ sandboxId: 's' })
  t.same(await daemon.leftovers(), [])
})

t.test('what died, froze or was damaged meanwhile is cleared away; the others are untouched', async (t) => {
  await using daemon = await Daemon.start({ ...PROCESSES, more: '[limits]\nadopt_ms = 2000' })
  const pids = new Map<string, number>()
  for (const id of ['o-lives', 'o-dead', 'o-frozen', 'o-damaged']) {
    daemon.ids.add(id)
    await daemon.run(id)
    for (const pid of await daemon.guests()) if (![...pids.values()].includes(pid)) pids.set(id, pid)
  }
  const pidOf = (id: string) => {
    const pid = pids.get(id)
    if (pid === undefined) throw new Error(`no guest of ${id}`)
    return pid
  }
  await daemon.end('SIGKILL')
  process.kill(pidOf('o-dead'), 'SIGKILL')
  process.kill(pidOf('o-frozen'), 'SIGSTOP')
  await writeFile(`${daemon.dir}/ledger/o-damaged.json`, '{"version":1,"id":')
  await daemon.start()
  const state = async (id: string) => (await daemon.controller.Status({ sandboxId: id })).state
  t.equal(await state('o-lives'), 'SANDBOX_READY')
  t.equal(await state('o-dead'), 'SANDBOX_NOTREADY')
  t.equal(await state('o-frozen'), 'SANDBOX_NOTREADY')
  t.match(await daemon.controller.Wait({ sandboxId: 'o-dead' }), { exitStatus: 137 })
  t.match(await daemon.controller.Wait({ sandboxId: 'o-frozen' }), { exitStatus: 137 })
  t.match(JSON.parse((await daemon.admin.Inspect({ id: 'o-frozen' })).record), { exit: { reason: /frozen/ }, owned: [] })
  await t.rejects(state('o-damaged'), { code: 'NOT_FOUND' })
  t.match(await readdir(`${daemon.dir}/ledger/unreadable`), [/^o-damaged-/], 'kept for a person to look at')
  t.same(await daemon.guests(), [pidOf('o-lives')])
  for (const id of ['o-lives', 'o-dead', 'o-frozen']) await daemon.remove(id)
  t.same(await daemon.leftovers(), [])
})

t.test('a guest that dies takes its pod down within a second, whoever kills it', async (t) => {
  await using daemon = await Daemon.start(PROCESSES)
  daemon.ids.add('p')
  await daemon.run('p')
  const pid = await daemon.guest()
  const waiting = daemon.controller.Wait({ sandboxId: 'p' })
  t.match(await daemon.admin.List({}), { sandboxes: [{ id: 'p', vmmPid: pid }] })
  process.kill(pid, 'SIGKILL')
  t.match(await waiting, { exitStatus: 137 })
  t.match(await daemon.admin.List({}), { sandboxes: [{ id: 'p', state: 'stopped', vmmPid: 0 }] }, 'a pid that may be another process by now is not shown')
  t.equal(await processStat(pid).then((stat) => stat?.state ?? 'gone'), 'gone')
  await daemon.controller.Shutdown({ sandboxId: 'p' })
  t.same(await daemon.leftovers(), [])
})
