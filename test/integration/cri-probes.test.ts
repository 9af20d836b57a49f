/** Exec probes, many of them: nothing of an exec stays anywhere on its way. What they cost is bench/probes.ts's matter. */
import t from 'tap'
import { connectServices, pidOf, until } from '#test/support/faults.ts'
import { idle, inside, startKuasar } from '#test/support/kuasar.ts'

/** More than any queue on the way holds; at once as many as a pod of many containers has. */
const PROBES = 120
const AT_ONCE = 8

/** The kernel's count of open files goes in batches of a CPU's own. */
const FILES_SLACK = 64

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd, sandboxer } = kuasar
const pod = await kuasar.pod('probed')
const container = await pod.run({ name: 'probed', ...idle })
const vsock = await pidOf(node, pod.id, 'vhost-device-vsock')
// The sandboxer's own connection to the agent stays; it is made by the first call, which may be this or a beat.
await t.test('the sandbox\'s metrics are those of the pod\'s cgroup in the guest', async (t) => {
  using services = connectServices(node)
  const { metrics } = await services.controller.Metrics({ sandboxId: pod.id })
  t.equal(metrics?.id, pod.id)
  const { memory, pids, cpu } = services.any.unpack(metrics?.data, 'io.containerd.cgroups.v2.Metrics')
  const own = await inside(container, 'cat /sys/fs/cgroup/pids.current /sys/fs/cgroup/memory.current')
  t.comment(`the pod: ${pids?.current} processes, ${memory?.usage} bytes; the container as it looks: ${own.replace('\n', ' processes, ')} bytes`)
  t.ok(Number(memory?.usage) > 0, `${memory?.usage} bytes`)
  t.ok(Number(pids?.current) > 0, `${pids?.current} processes`)
  t.ok(Number(cpu?.usageUsec) > 0, `${cpu?.usageUsec} µs`)
})

/** Open files: a connection or a pipe that nobody closed would be among them, on both of its ends. */
async function open() {
  return {
    guest: Number((await inside(container, 'cat /proc/sys/fs/file-nr')).split(/\s+/)[0]),
    sandboxer: (await sandboxer.service.openFiles()).length,
    containerd: (await containerd.service.openFiles()).length,
    vsock: Number(await kuasar.sh(`ls /proc/${vsock}/fd | wc -l`)),
  }
}

t.test(`${PROBES} probes, ${AT_ONCE} at a time, one in three of which fails`, async (t) => {
  await container.execSync(['true'])
  const before = await open()
  let next = 0
  const wrong: unknown[] = []
  const prober = async () => {
    for (let index = next++; index < PROBES; index = next++) {
      const code = index % 3 === 0 ? 1 : 0
      const { exitCode, stdout } = await container.execSync(['sh', '-c', `echo ${index}; exit ${code}`])
      if (exitCode !== code || stdout !== `${index}\n`) wrong.push({ index, exitCode, stdout })
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, prober))
  t.strictSame(wrong, [], 'each with its own answer')
  t.equal(await inside(container, 'set -- /proc/[0-9]*; echo $#'), '3', 'init, its sleep, and the shell that counts them')
  for (const name of ['guest', 'sandboxer', 'containerd', 'vsock'] as const) {
    const slack = name === 'guest' ? FILES_SLACK : 0
    await until(`${name} has as many files open as before`, async () => (await open())[name] <= before[name] + slack)
  }
})

/** The host's port of the first link's time, 1025: vhost-device-vsock 0.3.0 stopped for good when it had counted up to it. */
const CONNECTIONS = 1100

/** In a row, 100 ms apart. The guest's kernel takes connections, and ends them, faster than the agent: then its queue is full. */
const REFUSED_MAX = 600

/** On the node: so many connections to the agent, one after another, each closed once the guest has closed it. */
const connections = (socket: string): string => `
const connect = () => new Promise((resolve, reject) => {
  const socket = require('net').connect('${socket}', () => socket.write('CONNECT 1024\\n'))
  let answer = ''
  socket.on('data', (data) => { answer += data; socket.end() }).on('error', reject)
  socket.on('close', () => resolve(answer.startsWith('OK ')))
})
;(async () => {
  let done = 0
  for (let refused = 0; done < ${CONNECTIONS} && refused < ${REFUSED_MAX}; ) {
    const answered = await connect()
    done += answered ? 1 : 0
    refused = answered ? 0 : refused + 1
    if (!answered) await new Promise((resolve) => setTimeout(resolve, 100))
  }
  console.log(done)
})()`

t.test('more connections than any number that is in use', async (t) => {
  t.equal(await node.run('node', ['-e', connections(`/run/kuasar/sandboxes/${pod.id}/vsock`)]), `${CONNECTIONS}\n`)
  t.equal((await container.execSync(['echo', 'served'])).stdout, 'served\n')
})

t.test('probes that time out leave nothing either', async (t) => {
  const before = await open()
  for (let index = 0; index < 3; index++) await t.rejects(container.execSync(['sleep', '1000'], 1), { message: /deadline|timed? ?out/i })
  t.equal(await inside(container, 'set -- /proc/[0-9]*; echo $#'), '3')
  await until('containerd has as many files open as before', async () => (await open()).containerd <= before.containerd)
})

t.test('what is left', async (t) => {
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})
