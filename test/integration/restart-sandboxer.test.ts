/** The sandboxer dies, and comes back, under pods that run. */
import t, { type Test } from 'tap'
import { explain } from '#shared/errors.ts'
import { podConfig } from '#test/cri/config.ts'
import { podCgroups } from '#test/node/pod-cgroup.ts'
import { connectServices, pidOf, recordOf, signalProcess, stateOf, until } from '#test/support/faults.ts'
import { microvm, startKuasar } from '#test/support/kuasar.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd

/** Counts for ever, and ends with the code it finds in /code. */
const counting = 'n=0; while [ ! -e /code ]; do n=$((n + 1)); echo "beat $n"; sleep 0.1; done; exit $(cat /code)'

/** Listens to containerd's event bus from now on; what is returned answers what came about a container's tasks, in order. */
function taskTopics(t: Test): (id: string) => string[] {
  const services = connectServices(node)
  const end = new AbortController()
  const heard: { readonly topic: string; readonly about: Buffer | undefined }[] = []
  const listen = async () => {
    const stream = services.events.Subscribe({ filters: ['topic~="^/tasks/"'] }, { signal: end.signal })
    for await (const { topic, event } of stream) heard.push({ topic, about: event?.value })
  }
  const listening = listen().catch((error: unknown) => {
    if (!end.signal.aborted) throw error
  })
  t.teardown(async () => {
    end.abort()
    await listening
    services[Symbol.dispose]()
  })
  return (id) => heard.filter(({ about }) => about?.includes(id)).map(({ topic }) => topic)
}

const beats = (text: string): number[] => [...text.matchAll(/^beat (\d+)$/gm)].map(([, number]) => Number(number))

t.test('SIGKILL: containers run on, and the next sandboxer adopts them', async (t) => {
  const topicsOf = taskTopics(t)
  const pod = await cri.runPod({ name: 'survivor' }, microvm)
  const stays = await pod.run({ name: 'stays', command: ['sh', '-c', counting] })
  const ends = await pod.run({ name: 'ends', command: ['sh', '-c', `trap "exit 7" TERM; ${counting}`] })
  await ends.outputMatching(/beat 2$/m)
  await until('its start is an event', async () => topicsOf(ends.id).includes('/tasks/start'))
  const vmm = await pidOf(node, pod.id, 'qemu')

  await sandboxer.stop('SIGKILL')
  const at = beats(await stays.output()).length
  const exec = await ends.execSync(['sh', '-c', 'echo out; echo err >&2; exit 9'])
  t.strictSame(exec, { stdout: 'out\n', stderr: 'err\n', exitCode: 9 }, 'exec')
  await stays.outputMatching(new RegExp(`^beat ${at + 5}$`, 'm'))
  t.pass('logs go on')
  await ends.stop(60)
  t.match(await ends.exited(), { exitCode: 7 }, 'an exit code while it is away')
  await t.rejects(pod.status(), { code: 'UNAVAILABLE' }, 'the pod’s status has nobody to answer it')

  await sandboxer.start()
  t.equal(await stateOf(pod), 'SANDBOX_READY')
  t.equal(await pidOf(node, pod.id, 'qemu'), vmm, 'the same VM')
  t.match(await stays.status(), { state: 'CONTAINER_RUNNING' })
  t.match(await ends.status(), { state: 'CONTAINER_EXITED', exitCode: 7 })

  await until('its events have come', async () => topicsOf(ends.id).includes('/tasks/delete'))
  const topics = topicsOf(ends.id)
  const away = topics.indexOf('/tasks/exec-added')
  t.strictSame([...new Set(topics.slice(0, away))], ['/tasks/create', '/tasks/start'], 'what its predecessor had handed on may come again')
  const missed = ['/tasks/exec-added', '/tasks/exec-started', '/tasks/exit', '/tasks/exit', '/tasks/delete']
  t.strictSame(topics.slice(away), missed, 'what happened while it was away comes in order, and once')

  await ends.remove()
  const prepared = async () => (await recordOf(node, pod.id)).containers
  await until('its root file system is given back', async () => !(await prepared()).includes(ends.id))
  const later = await pod.run({ name: 'later', command: ['sh', '-c', 'echo late; exit 3'] })
  t.match(await later.exited(), { exitCode: 3 }, 'a new container in the adopted pod')
  t.equal(await later.output(), 'late\n')

  await sandboxer.restart('SIGTERM')
  t.equal(await stateOf(pod), 'SANDBOX_READY', 'after SIGTERM too')
  await stays.execSync(['sh', '-c', 'echo 0 > /code'])
  t.match(await stays.exited(), { exitCode: 0 })
  const numbers = beats(await stays.output())
  t.strictSame(numbers, numbers.map((_, index) => index + 1), `${numbers.length} lines, none lost, none twice`)
  await until('the events of both lives have come', async () => topicsOf(stays.id).includes('/tasks/delete'))
  t.strictSame(topicsOf(stays.id), ['/tasks/create', '/tasks/start', '/tasks/exec-added', '/tasks/exec-started', '/tasks/exit', '/tasks/exit', '/tasks/delete'])
  t.strictSame(topicsOf(ends.id), topics, 'and nothing old again')

  const fresh = await cri.runPod({ name: 'fresh' }, microvm)
  const hello = await fresh.run({ command: ['sh', '-c', 'echo hello'] })
  await hello.outputMatching(/hello/)
  t.pass('a new pod works')
  await fresh.remove()

  await signalProcess(node, pod.id, 'qemu', 'KILL')
  await until('the death of an adopted VM is noticed', async () => (await pod.status()).state === 'SANDBOX_NOTREADY')
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})

t.test('SIGKILL in the middle of a start: the pod is undone, and nothing waits for a Shutdown', async (t) => {
  using services = connectServices(node)
  const config = podConfig({ name: 'unborn' })
  const cgroups = podCgroups(node)
  await cgroups.make(config.linux.cgroupParent)
  const starting = cri.runtime.RunPodSandbox({ config, runtimeHandler: microvm }).catch((error: unknown) => error)
  const id = await until('its VM runs', async () => {
    const { sandboxes } = await services.admin.List({})
    const found = sandboxes.find(({ podName }) => podName === 'unborn')
    if (found === undefined) return undefined
    return (await pidOf(node, found.id, 'qemu').catch(() => undefined)) === undefined ? undefined : found.id
  })
  await sandboxer.stop('SIGKILL')
  t.match(await starting, { code: 'UNAVAILABLE' }, 'containerd’s caller is told')
  t.match(await recordOf(node, id), { state: 'starting' }, 'which is what its successor finds')
  await sandboxer.start()
  t.strictSame((await services.admin.List({})).sandboxes, [])
  t.strictSame(await cri.pods(), [])
  await cgroups.remove(config.linux.cgroupParent)
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})

t.test('a VM that dies between a container’s Create and its Start, while it is away: its successor has containerd forget the task', async (t) => {
  using services = connectServices(node)
  const end = new AbortController()
  const created = services.events.Subscribe({ filters: ['topic=="/tasks/create"'] }, { signal: end.signal })[Symbol.asyncIterator]().next()
  const pod = await cri.runPod({ name: 'lost' }, microvm)
  const container = await pod.create({ command: ['sleep', '1000'] })
  const vmm = await pidOf(node, pod.id, 'qemu')
  const started = container.start().catch(explain)
  await created
  end.abort()
  await kuasar.sh(`kill -KILL ${sandboxer.service.insidePid} ${vmm}`)
  await sandboxer.stop()
  await sandboxer.start()
  t.match(await started, /failed to start containerd task/)
  t.equal(await stateOf(pod), 'SANDBOX_NOTREADY')
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [], 'nothing is left')
})
