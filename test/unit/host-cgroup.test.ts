/** The pod's cgroup with real processes, on every kind of hierarchy that this machine has mounted. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { access, constants, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { createPodCgroup, moveProcesses, removeCgroup, sandboxCgroups, yieldProcessors } from '#host/sandbox/cgroup.ts'
import { Ledger } from '#host/sandbox/ledger.ts'
import { outOfPids, podPidsLimit } from '#host/sandbox/pids.ts'
import { endProcess, isAlive, processStat } from '#host/sandbox/processes.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { undo } from '#host/sandbox/undo.ts'
import { hierarchies } from '#test/node/cgroup.ts'
import { sandboxRecord } from '#test/support/record.ts'

/** The test's own, in every hierarchy. */
const TOP = `/kuasar-unit-${process.pid}`

const writable = (root: string) => access(root, constants.W_OK).then(() => [root], () => [])
const mounted = (await Promise.all((await hierarchies()).map(writable))).flat()
const isUnified = (root: string) => existsSync(join(root, 'cgroup.controllers'))
const kinds = { v1: mounted.filter((root) => !isUnified(root)), v2: mounted.filter(isUnified) }

async function opened(t: Test, roots: readonly string[]) {
  const ledger = new Ledger(sandboxRecord(), await DirectoryStore.open(t.testdir()), undo)
  t.teardown(async () => {
    for (const root of roots) await removeCgroup(join(root, TOP))
  })
  return { ledger, pod: (id: string) => createPodCgroup(`${TOP}/pod/kuasar-${id}`, roots, ledger) }
}

/** A process and one that it has started. */
async function family(t: Test): Promise<{ readonly child: ChildProcess; readonly pids: readonly string[] }> {
  const child = spawn('sh', ['-c', 'sleep 1000 >/dev/null & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] })
  const [said] = await once(child.stdout, 'data')
  const pids = [String(child.pid), String(said).trim()]
  const started = await Promise.all(pids.map((pid) => processStat(Number(pid))))
  t.teardown(async () => {
    for (const stat of started) if (stat !== undefined) await endProcess(stat.pid, stat.startTicks)
  })
  return { child, pids }
}

const pidsIn = async (file: string) => (await readFile(file, 'utf8')).split('\n').filter((line) => line !== '').toSorted()

for (const [kind, roots] of Object.entries(kinds)) {
  const skip = roots.length > 0 ? false : `lacks: a writable mount of cgroup ${kind}`

  t.test(`${kind}: made in every hierarchy, moved to, and removed with what runs in it`, { skip }, async (t) => {
    const { ledger, pod } = await opened(t, roots)
    const warm = await pod('warm')
    t.same(warm, roots.map((root) => join(root, TOP, 'pod/kuasar-warm/cgroup.procs')))
    t.same(ledger.list(), warm.map((file) => ({ kind: 'cgroup', path: dirname(file) })), 'and is in the ledger')
    const { child, pids } = await family(t)
    for (const file of warm) for (const pid of pids) await writeFile(file, pid)

    const own = await pod('own')
    await moveProcesses(warm, own)
    for (const file of warm) t.same(await pidsIn(file), [], `nobody stays in ${file}`)
    for (const file of own) t.same(await pidsIn(file), pids.toSorted(), `all are in ${file}`)
    await moveProcesses(warm, own)
    t.equal(child.exitCode ?? child.signalCode, null, 'none was ended')

    const ended = once(child, 'exit')
    await ledger.release(() => true)
    await ended
    for (const file of [...warm, ...own]) t.notOk(existsSync(dirname(file)), `${dirname(file)} is gone`)
    for (const pid of pids) t.notOk(await isAlive(Number(pid), undefined), `and process ${pid}`)
    for (const root of roots) t.ok(existsSync(join(root, TOP, 'pod')), `the parent in ${root} is not ours to remove`)
  })

  t.test(`${kind}: a cgroup below it, somebody in it, and one that is gone`, { skip }, async (t) => {
    const { ledger, pod } = await opened(t, roots)
    const own = await pod('own')
    const { child, pids: [parent = '', descendant = ''] } = await family(t)
    for (const dir of own.map((file) => dirname(file))) {
      const below = join(dir, 'deep/deeper')
      await createPodCgroup('deep/deeper', [dir], ledger)
      await writeFile(join(dir, 'cgroup.procs'), parent)
      await writeFile(join(below, 'cgroup.procs'), descendant)
    }
    const ended = once(child, 'exit')
    for (const dir of own.map((file) => dirname(file))) {
      await removeCgroup(dir)
      t.notOk(existsSync(dir), `${dir} is gone`)
      await removeCgroup(dir)
    }
    await ended
    t.notOk(await isAlive(Number(descendant), undefined))
  })

  t.test(`${kind}: who cannot be moved is named`, { skip }, async (t) => {
    const { pod } = await opened(t, roots)
    const [from, to] = [await pod('from'), await pod('to')]
    const { pids: [pid = ''] } = await family(t)
    for (const file of from) await writeFile(file, pid)
    // Whatever is written there, the process stays.
    const nowhere = from.map(() => '/dev/null')
    await t.rejects(moveProcesses(from, nowhere), { code: 'INTERNAL', message: new RegExp(`processes ${pid} cannot be moved from ${from[0]} to /dev/null`) })
    for (const file of to) await removeCgroup(dirname(file))
    await t.rejects(moveProcesses(from, to), { code: 'ENOENT' })
  })

  t.test(`${kind}: the limit of processes is the parent's, where they are counted`, { skip }, async (t) => {
    const { pod } = await opened(t, roots)
    const own = await pod('own')
    t.equal(await podPidsLimit(own), 0, 'as it is made')
    const [parent] = own.map((file) => join(dirname(dirname(file)), 'pids.max')).filter((path) => existsSync(path))
    if (parent === undefined) return t.comment('processes are not counted here')
    for (const [written, limit] of [['64', 64], ['max', 0], ['0', 1]] as const) {
      await writeFile(parent, written)
      t.equal(await podPidsLimit(own), limit, written)
    }
    await writeFile(parent, '3')
    t.equal(await outOfPids(own), undefined, 'nobody was refused')
    const child = spawn('sh', ['-c', 'read go; sleep 0 & sleep 0 & sleep 0 & sleep 0 & wait'], { stdio: ['pipe', 'ignore', 'ignore'] })
    for (const file of own) await writeFile(file, String(child.pid))
    const ended = once(child, 'exit')
    child.stdin.end('\n')
    await ended
    t.match(await outOfPids(own), /lets in 3 processes and threads, and was full; raise the kubelet's podPidsLimit/)
  })

  t.test(`${kind}: a warm VM's yields the processors, where their controller is in use`, { skip }, async (t) => {
    const { pod } = await opened(t, roots)
    const own = await pod('own')
    await yieldProcessors(own)
    const weights = own.flatMap((file) => ['cpu.weight', 'cpu.shares'].map((name) => join(dirname(file), name))).filter((path) => existsSync(path))
    for (const path of weights) t.equal((await readFile(path, 'utf8')).trim(), path.endsWith('weight') ? '1' : '2', path)
    t.comment(`${weights.length} of ${own.length} hierarchies share processors`)
  })
}

t.test('a limit of processes that nobody can read is no limit that nobody has set', async (t) => {
  const dir = t.testdir({ odd: { 'pids.max': 'many\n', pod: {} }, none: { pod: {} }, closed: { 'pids.max': {}, pod: {} } })
  const limitIn = (name: string) => podPidsLimit([join(dir, 'none/pod/cgroup.procs'), join(dir, name, 'pod/cgroup.procs')])
  t.equal(await limitIn('none'), 0)
  await t.rejects(limitIn('odd'), { code: 'INTERNAL', message: /odd\/pids\.max is "many": expected a number of processes, or "max"/ })
  await t.rejects(limitIn('closed'), { code: 'INTERNAL', message: /closed\/pids\.max, cannot be read: .*EISDIR/ })
})

t.test('found without a record: by the processes in it, and their sandboxes\' names', async (t) => {
  const roots = kinds.v1.length > 0 ? kinds.v1 : kinds.v2
  const { pod } = await opened(t, roots)
  const own = await pod('lost')
  const { child, pids } = await family(t)
  for (const file of own) await writeFile(file, String(child.pid))
  const found = await sandboxCgroups(['lost'], pids.map(Number))
  t.ok(found.length > 0 && found.every((path) => own.includes(join(path, 'cgroup.procs'))), 'only these', { found })
  t.same(await sandboxCgroups(['other'], pids.map(Number)), [])
})
