/** How containers of one living pod come, end and come again, as the kubelet makes them. */
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import t from 'tap'
import { containerConfig, podConfig } from '#test/cri/config.ts'
import { checkout } from '#test/node/paths.ts'
import { debug, pidOf } from '#test/support/faults.ts'
import { idle, images, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

await execa('make', ['container-tools'], { cwd: checkout })
const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const annotations = { 'io.kuasar.test': 'passed through', 'example.com/other': 'of no concern' }
const pod = await kuasar.containerd.cri.runPod(podConfig({ name: 'lifecycle', annotations }), microvm)
const idler = await pod.run({ name: 'idler', ...idle })

/** Woken by its traps alone. */
const waiting = (traps: string) => ['sh', '-c', `${traps}; echo up; while :; do sleep 100000 & wait $!; done`]

/** The OCI spec that containerd keeps of a container, as text. */
const specOf = async (id: string) => (await kuasar.containerd.cri.runtime.ContainerStatus({ containerId: id, verbose: true })).info['info'] ?? ''

t.test('exit codes and signals', async (t) => {
  const cases = { 'exit 0': 0, 'exit 7': 7, 'exit 255': 255, 'sh -c "kill -SEGV \\$\\$"; exit $?': 139 }
  await Promise.all(Object.entries(cases).map(async ([text, exitCode]) => {
    const container = await pod.run({ command: ['sh', '-c', text] })
    t.match(await container.exited(), { exitCode, reason: exitCode === 0 ? 'Completed' : 'Error' }, text)
    await container.remove()
  }))
})

t.test('the image\'s stop signal, the grace, and the end of patience', async (t) => {
  const signalled = await pod.run({ name: 'signalled', image: images.config, command: waiting('trap "exit 42" USR1; trap "exit 43" TERM') })
  const deaf = await pod.run({ name: 'deaf', command: waiting('trap "echo no" TERM') })
  await Promise.all([signalled, deaf].map((container) => container.outputMatching(/up/)))
  await signalled.stop(60)
  t.match(await signalled.status(), { exitCode: 42 })
  await deaf.stop(1)
  t.match(await deaf.status(), { exitCode: 137 })
  t.match(await deaf.output(), /up\nno\n/, 'it was asked first')
  await Promise.all([signalled.remove(), deaf.remove()])
})

t.test('a container that ends is made again in the same pod, its files new and its log another', async (t) => {
  const attempts = [0, 1, 2]
  const ids = new Set<string>()
  for (const attempt of attempts) {
    const container = await pod.run({ name: 'again', attempt, command: ['sh', '-c', `ls /root; touch /root/mark; echo attempt ${attempt}; exit ${attempt}`] })
    t.match(await container.exited(), { exitCode: attempt, metadata: { name: 'again', attempt } })
    t.equal(await container.output(), `attempt ${attempt}\n`)
    t.match((await container.status()).logPath, new RegExp(`/again/${attempt}\\.log$`))
    ids.add(container.id)
    // The kubelet keeps the last one for its log.
    if (attempt > 0) await kuasar.containerd.cri.container([...ids][attempt - 1] ?? '').remove()
  }
  t.equal(ids.size, attempts.length)
  t.match(await idler.status(), { state: 'CONTAINER_RUNNING' }, 'its neighbour saw nothing of it')
})

t.test('init containers one after another, then all the others at once, sharing a volume', async (t) => {
  const volume = '/scratch/work'
  await kuasar.sh(`mkdir -p ${volume}`)
  const mounts = [{ hostPath: volume, containerPath: '/work' }]
  for (const step of [1, 2, 3]) {
    const init = await pod.run({ name: `init-${step}`, mounts, command: ['sh', '-c', `echo ${step} >>/work/steps`] })
    t.match(await init.exited(), { exitCode: 0 })
    await init.remove()
  }
  const apps = await Promise.all(['a', 'b', 'c'].map((name) => pod.run({ name, mounts, command: ['sh', '-c', `cat /work/steps; echo ${name}`] })))
  for (const [index, app] of apps.entries()) {
    await app.exited()
    t.equal(await app.output(), `1\n2\n3\n${'abc'[index]}\n`)
  }
})

t.test('an ephemeral container in its target\'s PID namespace sees, signals and outlives nothing else', async (t) => {
  const target = await pod.run({ name: 'target', command: waiting('trap "exit 21" USR2') })
  const debug = await pod.run({ name: 'debug', ...idle, security: { namespaceOptions: { pid: 'TARGET', targetId: target.id }, capabilities: { addCapabilities: ['SYS_PTRACE'] } } })
  t.match(await inside(debug, 'tr "\\0" " " </proc/1/cmdline; ls /proc/1/root/etc/passwd'), /USR2[\s\S]*\/proc\/1\/root\/etc\/passwd/)
  // The end of the namespace may come before that of the exec, and takes it along.
  const { exitCode } = await debug.execSync(['kill', '-USR2', '1'])
  t.ok(exitCode === 0 || exitCode === 137, `it is signalled: exit ${exitCode}`)
  t.match(await target.exited(), { exitCode: 21 })
  t.match(await debug.exited(), { exitCode: 137 }, 'the namespace ends with its first process')
  const late = await pod.create({ name: 'late', ...idle, security: { namespaceOptions: { pid: 'TARGET', targetId: target.id } } })
    .catch((error: unknown) => error)
  t.ok(late instanceof Error ? /running|target/i.test(late.message) : false, 'a target that has ended is refused', { late })
})

t.test('what a process is given at its start', async (t) => {
  const command = ['sh', '-c', 'pwd; echo "$GREETING/$MORE/$EMPTY."; stty size; cat /proc/1/oom_score_adj; ulimit -n; hostname']
  const given = await pod.run({
    name: 'given',
    image: images.config,
    command,
    tty: true,
    stdin: true,
    workingDir: '/not/there/yet',
    env: { MORE: 'a b=c', EMPTY: '' },
    resources: { oomScoreAdj: '321' },
    security: { runAsUser: { value: '0' } },
  })
  await given.exited()
  const lines = (await given.output()).split('\n').map((line) => line.trim())
  t.strictSame(lines.slice(0, 2), ['/not/there/yet', 'hello from the image/a b=c/.'])
  t.equal(lines[3], '321')
  t.ok(Number(lines[4]) >= 1_048_576 || lines[4] === 'unlimited', `open files: ${lines[4]}`)
  t.equal(lines[5], 'lifecycle')
  const args = await pod.run({ name: 'args', image: images.config, args: ['echo "arg of $0"', 'zero'] })
  await args.exited()
  t.equal(await args.output(), 'arg of zero\n', 'the image\'s ENTRYPOINT stays')
})

t.test('guests that are emulated are said to be, with the reason', async (t) => {
  const emulated = (await kuasar.sh(`tr '\\0' ' ' </proc/${await pidOf(kuasar.node, pod.id, 'qemu')}/cmdline`)).includes(' -accel tcg')
  t.equal(/emulation \(TCG\), many times slower than KVM: \w/.test(await kuasar.sandboxer.service.log()), emulated, emulated ? 'emulated' : 'by KVM')
})

t.test('annotations reach the pod, its status and its containers\' specs', async (t) => {
  t.match((await pod.status()).annotations, annotations)
  const spec = await specOf(idler.id)
  t.match(spec, /"io\.kuasar\.test":\s*"passed through"/)
  t.notMatch(spec, /"example\.com\/other":\s*"of no concern"[^}]*"io\.kubernetes\.cri/, 'others stay with the pod')
  const noted = await pod.create(containerConfig({ annotations: { 'example.com/mine': 'kept' } }))
  t.match((await noted.status()).annotations, { 'example.com/mine': 'kept' })
  await noted.remove()
})

t.test('one PID namespace for a pod', async (t) => {
  const pids = { namespaceOptions: { pid: 'POD' } } as const
  const shared = await kuasar.containerd.cri.runPod({ name: 'shared', linux: { securityContext: pids } }, microvm)
  const one = await shared.run({ name: 'one', command: waiting('trap "exit 5" USR1'), security: pids })
  const two = await shared.run({ name: 'two', ...idle, security: pids })
  t.match(await inside(two, 'ps'), /^\s*1 .*pause/m)
  await inside(two, "kill -USR1 $(ps | sed -n 's/^ *\\([0-9]*\\) .*[e]xit 5.*/\\1/p' | head -n 1)")
  t.match(await one.exited(), { exitCode: 5 })
  t.match(await two.status(), { state: 'CONTAINER_RUNNING' }, 'nobody but the pause process is process 1')
  const again = await shared.run({ name: 'one', attempt: 1, command: ['sh', '-c', 'ps | grep -c "[t]rap .exit 0"'], security: pids })
  t.match(await again.exited(), { exitCode: 0 })
  // An orphan is reaped by process 1, not left a zombie.
  t.equal(await inside(two, '(sleep 0.1 &) ; sleep 1; ps -o stat | grep -c Z || true'), '0')
  await shared.remove()
})

/** Every virtiofsd of the pod, its forks too. */
const virtiofsds = async () =>
  (await kuasar.sh(`for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = virtiofsd ] && grep -q ${pod.id} $p/cmdline && echo \${p#/proc/}; done; true`)).trim().split('\n').map(Number)

t.test('a container that is killed while the server of its files is busy elsewhere ends like any other', async (t) => {
  const killed = await pod.run({ name: 'killed', ...idle })
  await inside(killed, 'ls /bin/busybox')
  // By a signal they would be stopped for good: their pod would be ended.
  const busy = await debug(kuasar.node, await virtiofsds())
  const stopped = killed.stop(0)
  // Time for its processes to end and for their namespaces to go, with files whose closing nobody has answered.
  await sleep(3000)
  await busy.stop()
  await stopped
  t.match(await killed.exited(), { exitCode: 137 })
  await killed.remove()
  t.equal(await inside(idler, 'echo well'), 'well')
  t.notMatch(await kuasar.sh(`cat /run/kuasar/sandboxes/${pod.id}/console.log`), /kernel BUG|Busy inodes/)
})

// After all that knows of no limits: containerd comes back with a base spec that has some.
t.test('the limits of a spec are the process\'s, and its execs\'', async (t) => {
  await kuasar.containerd.stop()
  const rlimits = [{ type: 'RLIMIT_NOFILE', soft: 1234, hard: 5678 }, { type: 'RLIMIT_CORE', soft: 0, hard: 0 }]
  await kuasar.containerd.start({ rlimits })
  const command = 'ulimit -Sn; ulimit -Hn; ulimit -Hc'
  t.not(await inside(idler, command), '1234\n5678\n0', 'who was there before has others')
  const limited = await pod.run({ name: 'rlimits', command: ['sh', '-c', `${command}; while :; do sleep 1; done`] })
  t.equal(await limited.outputMatching(/^0$/m), '1234\n5678\n0\n')
  t.equal(await inside(limited, command), '1234\n5678\n0')
  await limited.stop(0)
  await limited.remove()
})

t.test('what is left', async (t) => {
  await pod.remove()
  await kuasar.sh('rm -rf /scratch/work')
  t.strictSame(await kuasar.leaks(), [])
})
