/** Statistics through CRI, beside what the guest says of itself; and of a pod whose guest says nothing. */
import { dirname } from 'node:path'
import t from 'tap'
import { recordOf, signalProcess } from '#test/support/faults.ts'
import { idle, inside, microvm, startKuasar } from '#test/support/kuasar.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd } = kuasar
const { cri } = containerd
const MiB = 1024 * 1024

const pod = await kuasar.pod('measured')
const limit = 200 * MiB
/** Holds more of each kind of memory than a look at it takes. */
const busy = await pod.run({
  name: 'busy',
  command: ['sh', '-c', 'dd if=/dev/zero of=/dev/shm/held bs=1M count=40; own=$(head -c 8000000 /dev/zero | tr "\\0" x); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000000; :'],
  resources: { memoryLimitInBytes: String(limit) },
})
const still = await pod.run({ name: 'still', ...idle })

/** The guest's own word, as the container reads it in its cgroup. */
async function guestSays() {
  const text = await inside(busy, 'cd /sys/fs/cgroup; cat cpu.stat memory.stat; echo memory $(cat memory.current); echo pids $(cat pids.current)')
  const value = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1])
  return {
    cpuNanos: value('usage_usec') * 1000,
    usage: value('memory'),
    workingSet: value('memory') - value('inactive_file'),
    rss: value('anon'),
    faults: value('pgfault'),
  }
}

/** Within 5 % of what the guest said before and after. */
const between = (value: number, before: number, after: number) => value >= Math.min(before, after) * 0.95 && value <= Math.max(before, after) * 1.05

t.test('a container\'s numbers are the guest\'s', async (t) => {
  await busy.outputMatching(/done/)
  const before = await guestSays()
  const { cpu, memory, attributes, writableLayer } = await busy.stats()
  const after = await guestSays()
  const given = {
    cpuNanos: Number(cpu?.usageCoreNanoSeconds?.value),
    usage: Number(memory?.usageBytes?.value),
    workingSet: Number(memory?.workingSetBytes?.value),
    rss: Number(memory?.rssBytes?.value),
    faults: Number(memory?.pageFaults?.value),
  }
  for (const name of ['cpuNanos', 'usage', 'workingSet', 'rss', 'faults'] as const)
    t.ok(between(given[name], before[name], after[name]), `${name}: ${before[name]} ≤ ${given[name]} ≤ ${after[name]}, within 5 %`)
  t.ok(given.usage > 40 * MiB, 'what it holds in /dev/shm is counted')
  t.equal(Number(memory?.availableBytes?.value), limit - given.workingSet)
  t.match(attributes, { id: busy.id, metadata: { name: 'busy' } })
  t.ok(writableLayer !== null)
})

/** The host's word, as the kubelet's cgroup of the pod has it in this node: v2, or v1's controllers. */
async function hostSays(): Promise<{ readonly usage: number; readonly cpuNanos: number }> {
  const parent = dirname((await recordOf(node, pod.id)).plan.cgroupPath)
  const v2 = `cd .${parent}; cat memory.current; echo $(($(sed -n 's/^usage_usec //p' cpu.stat) * 1000))`
  const v1 = `cat memory${parent}/memory.usage_in_bytes cpuacct${parent}/cpuacct.usage`
  const text = await kuasar.sh(`cd /sys/fs/cgroup; if [ -e cgroup.controllers ]; then ${v2}; else ${v1}; fi`)
  const [usage = NaN, cpuNanos = NaN] = text.trim().split('\n').map(Number)
  return { usage, cpuNanos }
}

t.test('the pod\'s numbers are its cgroup\'s on the host, VM included, and hold its containers\'', async (t) => {
  const before = await hostSays()
  const { linux, attributes } = await pod.stats()
  const after = await hostSays()
  const [usage, cpuNanos] = [Number(linux?.memory?.usageBytes?.value), Number(linux?.cpu?.usageCoreNanoSeconds?.value)]
  t.ok(between(usage, before.usage, after.usage), `memory: ${before.usage} ≤ ${usage} ≤ ${after.usage}, within 5 %`)
  t.ok(cpuNanos >= before.cpuNanos && cpuNanos <= after.cpuNanos, `CPU: ${before.cpuNanos} ≤ ${cpuNanos} ≤ ${after.cpuNanos} ns`)
  t.match(attributes, { id: pod.id, metadata: { name: 'measured' } })
  t.strictSame(new Set(linux?.containers.map(({ attributes: of }) => of?.metadata?.name)), new Set(['busy', 'still']))
  const container = linux?.containers.find(({ attributes: of }) => of?.id === busy.id)
  // Of CPU it need not be more than the container's: a guest whose processor is taken away from it counts that time as its own.
  t.ok(usage > Number(container?.memory?.usageBytes?.value))
  t.ok(Number(linux?.process?.processCount?.value) > 0)
  t.equal(linux?.network?.defaultInterface?.name, 'eth0')
  const { stats } = await cri.runtime.ListPodSandboxStats({ filter: { id: pod.id } })
  t.match(stats, [{ attributes: { id: pod.id }, linux: { containers: [{}, {}] } }])
})

t.test('what the pod receives and sends is in its network\'s numbers', async (t) => {
  const bytes = 2 * MiB
  const counted = async () => {
    const { linux } = await pod.stats()
    return { rx: Number(linux?.network?.defaultInterface?.rxBytes?.value), tx: Number(linux?.network?.defaultInterface?.txBytes?.value) }
  }
  await kuasar.sh(`mkdir -p /scratch/www && head -c ${bytes} /dev/urandom >/scratch/www/data`)
  const httpd = await node.start({ name: 'httpd', command: 'busybox', args: ['httpd', '-f', '-p', '8080', '-h', '/scratch/www'] })
  const before = await counted()
  t.equal(await inside(still, `for i in 1 2 3 4 5; do wget -q -O /received http://10.88.0.1:8080/data && break; sleep 1; done; httpd -p 80 -h / && wc -c </received`), String(bytes))
  const received = await counted()
  t.ok(received.rx - before.rx >= bytes && received.tx - before.tx < bytes, `in: ${before.rx} → ${received.rx}, out: ${before.tx} → ${received.tx}`)
  const address = (await pod.status()).network?.ip
  t.equal((await kuasar.sh(`busybox wget -q -O - http://${address}/received | wc -c`)).trim(), String(bytes))
  const sent = await counted()
  t.ok(sent.tx - received.tx >= bytes && sent.rx - received.rx < bytes, `in: ${received.rx} → ${sent.rx}, out: ${received.tx} → ${sent.tx}`)
  await httpd.stop()
  await kuasar.sh('rm -rf /scratch/www')
})

// Without the last, the guest works and cannot say so.
for (const name of ['qemu', 'vhost-device-vsock'] as const)
  t.test(`a pod whose ${name} is stopped: an error for that pod, and numbers for the others`, async (t) => {
    const frozen = await cri.runPod({ name: `frozen-${name}` }, microvm)
    const silent = await frozen.run({ name: 'silent', ...idle })
    t.ok(Number((await silent.stats()).memory?.usageBytes?.value) > 0)
    await signalProcess(node, frozen.id, name, 'STOP')
    const startMs = performance.now()
    const took = <T>(promise: Promise<T>) => promise.finally(() => t.comment(`answered after ${Math.round(performance.now() - startMs)} ms`))
    // Well below the heartbeat of 30 s, which would find the guest dead as well.
    const patience = { timeoutMs: 15_000 }
    const single = took(cri.runtime.ContainerStats({ containerId: silent.id }, patience)).catch((error: unknown) => error)
    const [list, pods] = await Promise.all([took(cri.runtime.ListContainerStats({}, patience)), took(cri.runtime.ListPodSandboxStats({}, patience))])
    const error = await single
    t.ok(error instanceof Error && !/deadline/i.test(error.message), 'an error of its own, not the caller\'s patience', { error })
    const known = list.stats.filter(({ memory }) => Number(memory?.usageBytes?.value ?? 0) > 0).map(({ attributes }) => attributes?.id)
    t.strictSame(new Set(known), new Set([busy.id, still.id]))
    t.ok(pods.stats.some(({ attributes, linux }) => attributes?.id === pod.id && Number(linux?.memory?.usageBytes?.value) > 0))
    t.match(await still.execSync(['echo', 'well']), { stdout: 'well\n' })
    t.match(await silent.exited(), { exitCode: 255 })
    await frozen.remove()
  })

t.test('what is left', async (t) => {
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})
