/** The agent's Task service with real containers: the real PID 1 and crun, outside a VM (test/support/agent-node.ts). */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { asRuntimeError } from '#shared/errors.ts'
import { AgentNode, missingForAgent } from '#test/support/agent-node.ts'

const missing = missingForAgent()
if (missing !== undefined) t.bailout(`this machine lacks ${missing}`)

// Under load the machine's two cores are everybody's.
t.setTimeout(240_000)

const node = await AgentNode.start()
t.teardown(() => node[Symbol.asyncDispose]())

const sh = (script: string) => ({ args: ['/bin/sh', '-c', script] })

t.test('a container prints, exits and is deleted', async (t) => {
  using client = await node.container('life', sh('echo out; echo err >&2; exit 7'))
  const { stdout, stderr } = await client.create()
  t.equal(await client.status(), 'CREATED')
  const { exit } = await client.start()
  t.equal(await stdout?.text(), 'out\n')
  t.equal(await stderr?.text(), 'err\n')
  t.equal(await exit, 7)
  t.equal(await client.status(), 'STOPPED')
  t.strictSame((await client.calls.Pids({ id: 'life' })).processes.length, 1, 'pids are not empty for a stopped task')
  t.equal(await client.delete(), 7)
  await t.rejects(client.status(), { code: 'NOT_FOUND' })
  await t.rejects(client.delete(), { code: 'NOT_FOUND' })
  await t.rejects(client.wait(), { code: 'NOT_FOUND' })
  // A containerd that was killed before it had written the exit down begins so when it is back.
  await client.calls.Connect({ id: 'life' })
  t.match(await client.calls.State({ id: 'life' }), { status: 'STOPPED', exitStatus: 7 })
  t.equal(await client.wait(), 7)
  t.equal(await client.delete(), 7)
  await t.rejects(client.calls.Connect({ id: 'life' }), { code: 'NOT_FOUND' })
  await node.host.until(() => node.host.released.includes('life'))
  const events = () => node.host.events.filter(({ event }) => event?.value.toString().includes('life'))
  await node.host.until(() => events().length >= 4)
  t.strictSame(events().map(({ topic }) => topic), ['/tasks/create', '/tasks/start', '/tasks/exit', '/tasks/delete'])
  t.strictSame(events().map(({ crun }) => crun !== null && BigInt(crun.tookNanos) > 0n), [true, false, false, false], 'the first says how long crun took')
})

t.test('State echoes what Create was given', async (t) => {
  using client = await node.container('echo', sh('sleep 60'))
  await client.create({ stdin: true })
  const state = await client.calls.State({ id: 'echo' })
  t.match(state, {
    id: 'echo', execId: '', bundle: '/bundles/echo', status: 'CREATED', terminal: false,
    stdin: client.address('echo-stdin'), stdout: client.address('echo-stdout'), stderr: client.address('echo-stderr'),
  })
  const { taskPid, version } = await client.calls.Connect({ id: 'echo' })
  t.equal(taskPid, state.pid)
  t.equal(version, '3')
  await client.kill(9)
  t.equal(await client.wait(), 137, 'a created container can be killed')
  await client.delete()
})

t.test('a second container has its own root file system and pid, and the pod its files', async (t) => {
  using client = await node.container('files', sh('cat /etc/hostname; cat /etc/hosts; touch /dev/shm/shared; cat /proc/self/cgroup; echo $$; readlink /proc/self/ns/uts'))
  const { stdout } = await client.create()
  await client.start()
  const text = (await stdout?.text()) ?? ''
  t.match(text, /^pod\n127\.0\.0\.1\tlocalhost\n/)
  t.match(text, /\n0::\/\n1\n/, 'a private cgroup namespace and pid namespace')
  await client.wait()
  await client.delete()
  using second = await node.container('files2', sh('ls /dev/shm; [ -w / ] && echo writable || echo readonly'))
  const again = await second.create()
  await second.start()
  t.equal(await again.stdout?.text(), 'shared\nwritable\n', '/dev/shm is the pod\'s')
  await second.wait()
  await second.delete()
})

t.test('an exec prints and exits', async (t) => {
  using client = await node.container('exec', sh('sleep 1000'))
  await client.create()
  await client.start()
  const exec = await client.exec('e1', ['/bin/sh', '-c', 'echo hi; cat /proc/self/oom_score_adj; exit 3'])
  t.equal(await exec.stdout?.text(), 'hi\n500\n', 'and has the container\'s badness')
  t.equal(await exec.exit, 3)
  t.equal(await client.status('e1'), 'STOPPED')
  await t.rejects(client.kill(9, false, 'e1'), { code: 'NOT_FOUND' })
  t.equal(await client.delete('e1'), 3)
  await t.rejects(client.status('e1'), { code: 'NOT_FOUND' })
  const killed = await client.exec('e2', ['/bin/sleep', '1000'])
  await client.kill(15, false, 'e2')
  t.equal(await killed.exit, 143)
  await client.kill(9)
  t.equal(await client.wait(), 137)
  await t.rejects(client.kill(9, true), { code: 'NOT_FOUND' })
  await t.rejects(client.exec('e3', ['/bin/true']), { code: 'FAILED_PRECONDITION' })
  await client.delete()
})

t.test('Pids: a container\'s own processes, their children and its execs, and nobody else\'s', async (t) => {
  using neighbour = await node.container('neighbour', sh('sleep 1000'))
  await neighbour.create()
  await neighbour.start()
  using client = await node.container('family', sh('sleep 1000 & echo up; wait'))
  const { stdout } = await client.create()
  const { pid } = await client.start()
  await stdout?.until(/up/)
  const { exit } = await client.exec('member', ['/bin/sleep', '1000'])
  const { pid: member } = await client.calls.State({ id: 'family', execId: 'member' })
  const children = readFileSync(node.procPath(pid, `task/${pid}/children`), 'utf8').trim().split(' ').map(Number)
  t.equal(children.length, 1)
  const pids = async () => (await client.calls.Pids({ id: 'family' })).processes.map((process) => process.pid).toSorted((a, b) => a - b)
  t.strictSame(await pids(), [pid, ...children, member].toSorted((a, b) => a - b))
  await client.kill(9, false, 'member')
  t.equal(await exit, 137)
  t.strictSame(await pids(), [pid, ...children].toSorted((a, b) => a - b))
  for (const each of [client, neighbour]) {
    await each.kill(9, true)
    await each.wait()
    await each.delete()
  }
})

t.test('a command that cannot run fails at once, saying which', async (t) => {
  using client = await node.container('missing', sh('sleep 1000'))
  await client.create()
  await client.start()
  await t.rejects(client.exec('m1', ['no-such-command']), {
    code: 'INVALID_ARGUMENT', message: /exec: "no-such-command": executable file not found in \$PATH/,
  })
  t.equal(await client.wait('m1'), 255, 'Wait is answered')
  t.equal(await client.delete('m1'), 255)
  await t.rejects(client.exec('m2', ['/etc']), { code: 'PERMISSION_DENIED', message: /exec: "\/etc": permission denied/ })
  await t.rejects(client.exec('m3', []), { code: 'INVALID_ARGUMENT', message: /args/ })
  await client.kill(9)
  await client.wait()
  await client.delete()
  using bad = await node.container('missing2', { args: ['/no/such'] })
  await t.rejects(bad.create(), { code: 'INVALID_ARGUMENT', message: /executable file not found/ })
  await t.rejects(bad.delete(), { code: 'NOT_FOUND' })
  await node.host.until(() => node.host.released.includes('missing2'))
})

t.test('a failed create leaves nothing, and the id can be used again', async (t) => {
  using client = await node.container('again', { args: ['/bin/true'], storages: [
    { type: 'tmpfs', source: 'tmpfs', target: `${node.dir}/run/storages/a`, options: ['size=1m'] },
    { type: 'bind', source: '/no/such/source', target: `${node.dir}/run/storages/b`, options: [] },
  ] })
  await t.rejects(client.create(), { code: 'INTERNAL', message: /storage bind \/no\/such\/source/ })
  using client2 = await node.container('again', sh('exit 0'))
  await client2.create()
  const { exit } = await client2.start()
  t.equal(await exit, 0)
  await client2.delete()
})

t.test('a spec that crun refuses, a fifo, an unknown container, a bad id', async (t) => {
  using refused = await node.container('refused', { args: ['/bin/true'], mounts: [{ destination: '/x', type: 'nosuchfs', source: 'x' }] })
  await t.rejects(refused.create(), { message: /create container refused failed: crun: .*nosuchfs|No such device/ })
  using fifo = await node.container('fifo', sh('true'))
  const stdout = '/run/containerd/fifo/1/fifo-stdout'
  await t.rejects(fifo.calls.Create({ id: 'fifo', stdout }), { code: 'INVALID_ARGUMENT', message: /io_type = "streaming"/ })
  using other = await node.container('known', sh('true'))
  await t.rejects(other.calls.Create({ id: 'of-another-sandbox' }), { code: 'NOT_FOUND' })
  await t.rejects(other.calls.Create({ id: '../../etc' }), { code: 'INVALID_ARGUMENT' })
  await t.rejects(other.calls.State({ id: 'nobody' }), { code: 'NOT_FOUND' })
  await t.rejects(other.calls.Checkpoint({ id: 'nobody' }), { code: 'UNIMPLEMENTED' })
  t.strictSame(await other.calls.Shutdown({ id: 'nobody', now: true }), {}, 'Shutdown of a task leaves the agent alone')
})

t.test('start twice, create twice, delete of a running one', async (t) => {
  using client = await node.container('twice', sh('sleep 1000'))
  await client.create()
  await t.rejects(client.calls.Create({ id: 'twice' }), { code: 'ALREADY_EXISTS' })
  await client.start()
  await t.rejects(client.calls.Start({ id: 'twice' }), { code: 'FAILED_PRECONDITION' })
  await t.rejects(client.delete(), { code: 'FAILED_PRECONDITION' })
  await client.kill(9, true)
  await client.wait()
  await client.delete()
})

t.test('a kill that comes during a Delete is answered before it: containerd hangs up on the Delete\'s answer', async (t) => {
  using client = await node.container('killed-late', sh('sleep 1000'))
  await client.create()
  await client.start()
  await client.kill(9)
  await client.wait()
  const answers: unknown[] = []
  const deleted = client.delete().then((status) => answers.push(status))
  t.equal(await client.status(), 'STOPPED', 'the Delete is under way')
  await client.kill(9, true).catch((error: unknown) => answers.push(asRuntimeError(error).code))
  await deleted
  t.strictSame(answers, ['NOT_FOUND', 137])
})

// A containerd that was killed over its Delete asks for the State when it is back. An exit without its time it takes for a
// container that runs, and then no removal of its pod succeeds any more.
t.test('the State has the exit until a Delete has been answered', async (t) => {
  using client = await node.container('leaving', sh('exit 7'))
  await client.create()
  await client.start()
  await client.wait()
  const over = new AbortController()
  const deleted = client.delete().finally(() => over.abort())
  const states = []
  while (!over.signal.aborted) states.push(await client.calls.State({ id: 'leaving' }).catch((error: unknown) => asRuntimeError(error).code))
  await deleted
  const found = states.filter((state) => state !== 'NOT_FOUND')
  t.ok(found.length > 1)
  for (const state of found) t.match(state, { status: 'STOPPED', exitStatus: 7, exitedAt: { seconds: /^1\d{9}$/ } })
})

t.test('pause and resume', async (t) => {
  using client = await node.container('pause', sh('sleep 1000'))
  await client.create()
  await client.start()
  await client.calls.Pause({ id: 'pause' })
  t.equal(await client.status(), 'PAUSED')
  await t.rejects(client.exec('e', ['/bin/true']), { code: 'FAILED_PRECONDITION' })
  await client.calls.Resume({ id: 'pause' })
  t.equal(await client.status(), 'RUNNING')
  await t.rejects(client.calls.Resume({ id: 'pause' }), { code: 'FAILED_PRECONDITION' })
  await client.calls.Pause({ id: 'pause' })
  await client.kill(9, true)
  t.equal(await client.wait(), 137, 'a paused container can be killed')
  await client.delete()
})

t.test('stats and update', async (t) => {
  using client = await node.container('stats', sh('sleep 1000'))
  await client.create()
  await client.start()
  const { stats } = await client.calls.Stats({ id: 'stats' })
  t.equal(stats?.type_url, 'io.containerd.cgroups.v2.Metrics')
  t.ok((stats?.value.length ?? 0) > 0)
  await client.update({ cpu: { cpus: '0-127' } })
  await client.kill(9)
  await client.wait()
  await client.delete()
  await t.rejects(client.calls.Stats({ id: 'stats' }), { code: 'NOT_FOUND' })
})

t.test('PID namespaces: of the pod, and of another container', async (t) => {
  using first = await node.container('pod1', { ...sh('echo $$; sleep 1000'), pidNamespace: 'PID_NAMESPACE_POD' })
  await first.create()
  const { pid } = await first.start()
  using second = await node.container('pod2', { ...sh('ps; exit 0'), pidNamespace: 'PID_NAMESPACE_POD' })
  const seen = await second.create()
  await second.start()
  t.match(await seen.stdout?.text(), /pause[\s\S]*sleep 1000/, 'containers of a shared namespace see each other')
  await second.wait()
  await second.delete()
  using target = await node.container('target', { ...sh('ps; exit 0'), pidNamespace: 'PID_NAMESPACE_TARGET', targetPid: pid })
  const debug = await target.create()
  await target.start()
  t.match(await debug.stdout?.text(), /sleep 1000/)
  await target.wait()
  await target.delete()
  using stranger = await node.container('stranger', { ...sh('true'), pidNamespace: 'PID_NAMESPACE_TARGET', targetPid: 1 })
  await t.rejects(stranger.create(), { code: 'FAILED_PRECONDITION', message: /process 1, which is no running container/ })
  await first.kill(9)
  t.equal(await first.wait(), 137)
  await first.delete()
})

t.test('what a container started in a shared PID namespace ends with it', async (t) => {
  using client = await node.container('stragglers', { ...sh('sleep 1000 & exit 4'), pidNamespace: 'PID_NAMESPACE_POD' })
  const { stdout } = await client.create()
  const { exit } = await client.start()
  t.equal(await stdout?.text(), '')
  t.equal(await exit, 4)
  await client.delete()
})

t.test('Wait before Start, and many at once', async (t) => {
  using client = await node.container('waits', sh('exit 9'))
  const { stdout, stderr } = await client.create()
  const waits = [client.wait(), client.wait(), client.wait()]
  await client.calls.Start({ id: 'waits' })
  await Promise.all([stdout?.text(), stderr?.text()])
  t.strictSame(await Promise.all(waits), [9, 9, 9])
  await client.delete()
})

t.test('fifty execs at once', async (t) => {
  using client = await node.container('fifty', sh('sleep 1000'))
  await client.create()
  await client.start()
  const run = async (index: number) => {
    const { stdout, stderr, exit } = await client.exec(`x${index}`, ['/bin/sh', '-c', `echo ${index}; exit ${index}`])
    const [text] = await Promise.all([stdout?.text(), stderr?.text()])
    const status = await exit
    return [text, status, await client.delete(`x${index}`)]
  }
  const results = await Promise.all(Array.from({ length: 50 }, (_, index) => run(index)))
  t.strictSame(results, Array.from({ length: 50 }, (_, index) => [`${index}\n`, index, index]))
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('the sandboxer\'s own service', async (t) => {
  using agent = await node.agent()
  const { agentVersion, boottimeNanos } = await agent.calls.Ping({})
  t.match(agentVersion, /^\d+\.\d+\.\d+$/)
  t.ok(BigInt(boottimeNanos) > 0n)
  using client = await node.container('stray', sh('sleep 1000'))
  await client.create()
  const { pid, exit } = await client.start()
  t.strictSame((await agent.calls.Tasks({})).tasks, [{ containerId: 'stray', pid, status: 'running', execCount: 0 }])
  t.equal((await agent.calls.Stats({})).metrics?.type_url, 'io.containerd.cgroups.v2.Metrics')
  await agent.calls.Purge({ containerId: 'stray' })
  t.equal(await exit, 137)
  await agent.calls.Purge({ containerId: 'stray' })
  t.strictSame((await agent.calls.Tasks({})).tasks, [])
})
