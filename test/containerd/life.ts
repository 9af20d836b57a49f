/**
 * A pod's essential life under one line of containerd, and the upgrade to it: a pod that Debian's containerd started is taken over, and
 * then all that a kubelet does with a pod is done once. What is told about one version in detail, test/integration tells of Debian's.
 */
import { readdir } from 'node:fs/promises'
import type { Test } from 'tap'
import { debianContainerd } from '#test/node/containerd.ts'
import { pidOf, recordOf, stateOf, until } from '#test/support/faults.ts'
import { images, microvm, startKuasar } from '#test/support/kuasar.ts'
import { buildLine, lackFor, releaseOf } from './line.ts'

/** Counts for ever; of SIGTERM it ends with its own code. */
const counting = 'trap "exit 7" TERM; n=0; while :; do n=$((n + 1)); echo "beat $n"; sleep 0.1; done'

const numbersOf = (text: string): number[] => [...text.matchAll(/^beat (\d+)$/gm)].map(([, number]) => Number(number))

/** Whether each number is there, from 1 on, and first came after those before it. What was read last may come again after a restart. */
const unbroken = (numbers: readonly number[]): boolean => numbers.length > 0 && [...new Set(numbers)].every((number, index) => number === index + 1)

/** From 2.3 on the pause image is pulled between Create and Start, and where that fails neither Start nor Shutdown is called. */
const pullsBeforeStart = (line: string): boolean => line.localeCompare('2.3', 'en', { numeric: true }) >= 0

/** Where newer lines keep what they have mounted: made at their start, and theirs. */
const mountManager = 'file /run/containerd/io.containerd.mount-manager.v1.bolt directory'

export async function life(t: Test, line: string): Promise<void> {
  const lack = lackFor(line)
  await t.test(`containerd ${line}`, { skip: lack === undefined ? false : `lacks: ${lack}` }, async (t) => {
    const program = await buildLine(line)
    const kuasar = await startKuasar({ containerd: { program: debianContainerd } })
    t.teardown(() => kuasar[Symbol.asyncDispose]())
    const { node, containerd, sandboxer } = kuasar
    const { cri } = containerd
    const versionOf = async () => (await cri.runtime.Version({})).runtimeVersion

    const old = await cri.runPod({ name: 'old' }, microvm)
    const counter = await old.run({ name: 'counter', command: ['sh', '-c', counting] })
    await counter.outputMatching(/beat 2$/m)

    await t.test('an upgrade under a pod that runs', async (t) => {
      const before = await versionOf()
      const at = numbersOf(await counter.output()).length
      await containerd.stop()
      await containerd.start({ program })
      t.match(await versionOf(), new RegExp(`^v?${releaseOf(line).replaceAll('.', '\\.')}\\b`), `from ${before}`)
      t.match(await old.status(), { state: 'SANDBOX_READY' })
      t.match(await counter.status(), { state: 'CONTAINER_RUNNING' })
      await counter.outputMatching(new RegExp(`^beat ${at + 5}$`, 'm'))
      t.strictSame(await counter.execSync(['sh', '-c', 'echo out; echo err >&2; exit 9']), { stdout: 'out\n', stderr: 'err\n', exitCode: 9 }, 'exec')
      await counter.stop(60)
      t.match(await counter.exited(), { exitCode: 7 }, 'its own exit code')
      t.ok(unbroken(numbersOf(await counter.output())), 'no line is lost')
      const late = await old.run({ command: ['sh', '-c', 'echo late'] })
      await late.outputMatching(/^late$/m)
      await old.remove()
      t.strictSame((await kuasar.leaks()).filter((leak) => leak !== mountManager), [], 'nothing is left')
    })

    const pod = await cri.runPod({ name: 'new' }, microvm)
    const serves = await pod.run({ name: 'serves', command: ['sh', '-c', `echo served >/index.html; httpd -p 127.0.0.1:80 -h /; ${counting}`] })
    const echoes = await pod.run({ name: 'echoes', stdin: true, command: ['cat'] })
    const echo = async (text: string) => {
      const stream = await echoes.attach({ stdin: true })
      stream.write(text)
      await stream.output((stdout) => stdout === text)
      stream.close()
    }

    await t.test('logs, exec, attach, statistics, port-forward', async (t) => {
      await serves.outputMatching(/beat 2$/m)
      await echo('attached\n')
      await echoes.outputMatching(/^attached$/m)
      const exec = await serves.exec(['sh', '-c', 'read word; echo "got $word"; exit 3'], { stdin: true })
      exec.write('hello\n')
      await exec.output((stdout) => stdout === 'got hello\n')
      t.match(await exec.done, { exitCode: 3 }, 'exec over a stream')
      await t.rejects(serves.execSync(['/no/such/program']), { code: 'INVALID_ARGUMENT' })
      const { cpu, memory } = await serves.stats()
      t.ok(Number(memory?.workingSetBytes?.value) > 0 && Number(cpu?.usageCoreNanoSeconds?.value) > 0, 'a container has statistics')
      const { linux } = await pod.stats()
      t.match(linux, { containers: [{}, {}], network: { defaultInterface: { name: 'eth0' } } }, 'and a pod has')
      t.ok(Number(linux?.memory?.usageBytes?.value) > 0)
      const forward = await pod.portForward(80)
      await forward.ports[0]?.write('GET /index.html HTTP/1.0\r\n\r\n')
      await forward.ports[0]?.until((received) => received.includes('served\n'))
      forward.close()
    })

    await t.test('a mount that is read-only with all below it, which the stub says there are', async (t) => {
      await node.run('sh', ['-ec', 'mkdir -p /scratch/rro/below; mount --no-mtab -t tmpfs tmpfs /scratch/rro/below; echo kept | tee /scratch/rro/file >/scratch/rro/below/file'])
      const mount = { hostPath: '/scratch/rro', containerPath: '/rro', readonly: true }
      const script = 'cd /rro; cat below/file; for f in file below/file; do echo x >$f && echo "wrote $f"; done 2>/dev/null'
      const tries = async (name: string, recursiveReadOnly: boolean) => {
        const container = await pod.run({ name, mounts: [{ ...mount, recursiveReadOnly }], command: ['sh', '-c', script] })
        await container.exited()
        return container.output()
      }
      t.equal(await tries('all-of-it', true), 'kept\n')
      t.equal(await tries('top-alone', false), 'kept\nwrote below/file\n')
      await node.run('umount', ['--no-mtab', '/scratch/rro/below'])
    })

    const records = () => readdir(node.path('/run/kuasar/ledger')).then((names) => names.filter((name) => name.endsWith('.json')))
    if (pullsBeforeStart(line))
      await t.test('a pod whose pause image cannot be pulled leaves a record, and no more than that', async (t) => {
        await cri.images.RemoveImage({ image: { image: images.pause } })
        await t.rejects(cri.runPod({ name: 'unpulled' }, microvm), { message: /failed to pull image/ })
        const [left, ...more] = (await records()).filter((name) => name !== `${pod.id}.json`).map((name) => name.replace(/\.json$/, ''))
        t.strictSame(more, [])
        const { state, pod: { name }, owned } = await recordOf(node, left ?? '')
        t.strictSame({ state, name, owned }, { state: 'created', name: 'unpulled', owned: [] })
        t.strictSame((await cri.pods()).map(({ id }) => id), [pod.id], 'containerd has forgotten it')
      })

    await t.test('containerd is killed, the sandboxer is killed', async (t) => {
      const vmm = await pidOf(node, pod.id, 'qemu')
      await containerd.restart('SIGKILL')
      t.match(await pod.status(), { state: 'SANDBOX_READY' })
      await sandboxer.restart('SIGKILL')
      t.equal(await stateOf(pod), 'SANDBOX_READY')
      t.equal(await pidOf(node, pod.id, 'qemu'), vmm, 'the same VM')
      for (const container of [serves, echoes]) t.match(await container.status(), { state: 'CONTAINER_RUNNING' })
      await echo('attached again\n')
      const at = numbersOf(await serves.output()).length
      await serves.outputMatching(new RegExp(`^beat ${at + 5}$`, 'm'))
      await serves.stop(60)
      t.match(await serves.exited(), { exitCode: 7 })
      t.ok(unbroken(numbersOf(await serves.output())), 'no line is lost')
    })

    await t.test('nothing is left, and nothing was complained of', async (t) => {
      await pod.remove()
      await until('the record of the pod that did not come to its start is gone', async () => (await records()).length === 0)
      t.strictSame((await kuasar.leaks()).filter((leak) => leak !== mountManager), [])
      t.notMatch(await containerd.service.log(), new RegExp(`failed to unmarshal sandbox spec for pod ${pod.id}`), 'NRI has a spec of the pod')
      t.notMatch(await containerd.service.log(), /level=error msg="failed to load runtime info"/, 'nor was the stub')
    })
  })
}
