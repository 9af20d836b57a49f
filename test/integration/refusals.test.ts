/** What a microVM cannot do, and what nobody can: refused at once, by name, with the right code and nothing left. */
import t, { type Test } from 'tap'
import { hasCode, RuntimeError, type StatusName } from '#shared/errors.ts'
import { podConfig } from '#test/cri/config.ts'
import { sandboxers } from '#test/node/containerd.ts'
import { connectServices } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'
import { PROCESS_TYPE } from '#test/support/task-client.ts'

/** Known to containerd, and not to the sandboxer's configuration. */
const untold = 'kuasar-untold'

const kuasar = await startKuasar({ containerd: { sandboxers: [...sandboxers, untold] } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd } = kuasar
const { cri } = containerd
const services = connectServices(node)
t.teardown(() => services[Symbol.dispose]())

async function refused(t: Test, call: () => Promise<unknown>, code: StatusName, ...words: RegExp[]): Promise<void> {
  const error: unknown = await call().then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof RuntimeError)) return void t.fail('it was not refused', { error })
  t.ok(hasCode(error, code), `${code}: ${error.message}`, { found: error.code })
  for (const word of words) t.match(error.message, word)
}

t.test('pods that share namespaces of the host', async (t) => {
  const cases = [
    { options: { network: 'NODE' }, word: /hostNetwork/i },
    { options: { pid: 'NODE' }, word: /hostPID/i },
    { options: { ipc: 'NODE' }, word: /hostIPC/i },
  ] as const
  for (const { options, word } of cases) {
    const config = podConfig({ linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER', ...options } } } })
    await refused(t, () => cri.runPod(config, microvm), 'INVALID_ARGUMENT', word)
  }
})

t.test('a handler nobody serves', async (t) => {
  await refused(t, () => cri.runPod({}, 'kuasar-nobody'), 'UNKNOWN', /kuasar-nobody/)
  const toAdd = /no backend is configured for the sandboxer "kuasar-untold": add a table \[backends\.kuasar-untold\]/
  await refused(t, () => cri.runPod({}, untold), 'INVALID_ARGUMENT', toAdd)
})

t.test('what one container asks for, beside one that lives on', async (t) => {
  const pod = await cri.runPod({ name: 'refusals' }, microvm)
  const steady = await pod.run(idle)

  await t.test('a mount of a kind the share does not carry', async (t) => {
    await kuasar.sh('mkdir -p /scratch/odd && mknod /scratch/odd/block b 7 200')
    const mounts = [{ hostPath: '/scratch/odd/block', containerPath: '/dev/sda' }]
    const container = await pod.create({ mounts })
    await refused(t, () => container.start(), 'FAILED_PRECONDITION', /\/scratch\/odd\/block/, /block/)
    await container.remove()
  })

  await t.test('a program that is not there', async (t) => {
    const container = await pod.create({ command: ['/no/such/program'] })
    await refused(t, () => container.start(), 'INVALID_ARGUMENT', /\/no\/such\/program/, /no such file/i)
    await container.remove()
  })

  await t.test('a spec that crun refuses', async (t) => {
    const container = await pod.create({ command: ['true'], workingDir: '/etc/passwd/below' })
    await refused(t, () => container.start(), 'INVALID_ARGUMENT', /chdir `\/etc\/passwd\/below`: Not a directory/)
    await container.remove()
  })

  await t.test('an exec of a command that is not there', async (t) => {
    await refused(t, () => steady.execSync(['/no/such/command']), 'INVALID_ARGUMENT', /\/no\/such\/command/, /no such file/i)
    const named = await steady.execSync(['sh', '-c', 'exit 7'])
    t.equal(named.exitCode, 7, 'the next exec is served')
  })

  await t.test('signals for a container that has exited', async (t) => {
    const short = await pod.run({ command: ['sh', '-c', 'exit 3'] })
    t.match(await short.exited(), { exitCode: 3 })
    await short.stop(0)
    t.match(await short.status(), { exitCode: 3 }, 'a late stop does not change the exit code')
    await refused(t, () => short.execSync(['true']), 'UNKNOWN', /not running|exited|EXITED/i)
    await short.remove()
  })

  await t.test('a signal for a process that has exited', async (t) => {
    const { tasks } = services
    const exec = { containerId: steady.id, execId: 'done' }
    const spec = { args: ['true'], cwd: '/', env: ['PATH=/bin'], user: { uid: 0, gid: 0 } }
    await tasks.Exec({ ...exec, spec: { type_url: PROCESS_TYPE, value: Buffer.from(JSON.stringify(spec)) } })
    await tasks.Start(exec)
    t.match(await tasks.Wait(exec), { exitStatus: 0 })
    await refused(t, () => tasks.Kill({ ...exec, signal: 15 }), 'NOT_FOUND', /kill of exec done in container \w+: the process has finished/)
    await tasks.DeleteProcess(exec)
  })

  t.match(await steady.status(), { state: 'CONTAINER_RUNNING' })
  await pod.remove()
})

t.test('fifo io names the setting to change', async (t) => {
  await containerd.stop()
  await containerd.start({ ioType: 'fifo' })
  const pod = await cri.runPod({ name: 'fifo' }, microvm)
  const container = await pod.create({ command: ['true'] })
  await refused(t, () => container.start(), 'INVALID_ARGUMENT', /io_type/, /streaming/)
  await pod.remove()
})

t.test('what is left', async (t) => {
  t.strictSame(await kuasar.leaks(), [])
})
