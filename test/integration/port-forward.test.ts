/** Port-forward, as containerd does it: by dialling localhost in the pod's network namespace on the host. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import t from 'tap'
import { PORTS_MAX, type PortForward } from '#test/cri/port-forward.ts'
import type { Pod } from '#test/cri/pod.ts'
import { checkout, inside as at } from '#test/node/paths.ts'
import { blockOfLines } from '#test/support/bulk.ts'
import { connectServices, pidOf, recordOf, until } from '#test/support/faults.ts'
import { inside, microvm, startKuasar } from '#test/support/kuasar.ts'
import { peakMiB, resetPeak } from '#test/support/peak.ts'

const MiB = 1024 * 1024
const BULK_MIB = 64
/** More than all buffers on the way hold; about 6 were taken when this was written. */
const STALLED_MIB = 24
const FORWARDS = 200
/** What the sandboxer may grow by under a stalled forward: streams' buffers, and a heap that finds its size. */
const GROWTH_MIB_MAX = 24

await execa('make', ['container-tools'], { cwd: checkout })
const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer, containerd } = kuasar
const { cri } = containerd

const mounts = [{ hostPath: `${at.checkout}/build/test/tcp-server`, containerPath: '/tcp-server', readonly: true }]
/** Every server of the tests, each on one address alone; a port of its own for each. */
const servers = [
  '0.0.0.0 7000 echo',
  '127.0.0.1 7001 echo',
  '::1 7002 echo',
  '127.0.0.1 7003 md5sum',
  `127.0.0.1 7004 sh -c 'while [ ! -e /go ]; do sleep 1; done; md5sum'`,
  `127.0.0.1 7005 sh -c 'while :; do head -c 1048576 /dev/zero || exit; done'`,
  `127.0.0.1 7006 head -c ${STALLED_MIB * MiB} /dev/zero`,
]
const command = ['sh', '-c', `${servers.map((server) => `/tcp-server ${server} &`).join('\n')}\nwait`]
/** Listens once on every address, sends all it has, and reads on after that. */
const endsFirst = 'echo that is all >/all; nc -l -p 7010 </all >/got'

async function serving(pod: Pod) {
  const container = await pod.run({ name: 'servers', command, mounts })
  await until('the servers listen', async () => (await container.output()).split('listening').length > servers.length)
  return container
}

const pod = await cri.runPod({ name: 'forwarded' }, microvm)
const container = await serving(pod)
const { netnsPath } = (await recordOf(node, pod.id)).plan

/** test/support/localhost-client.ts in the pod's namespace. */
async function client(...args: string[]): Promise<{ sent?: string; received?: { bytes: number; md5: string; text: string }; error: string }> {
  const answer: { error: string } = JSON.parse(
    await node.run('nsenter', [`--net=${netnsPath}`, 'node', `${at.checkout}/test/support/localhost-client.ts`, ...args]),
  )
  return answer
}

const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex')

/** TCP connections in the guest that are open, those to the servers and the agent's own to them. */
async function connections(): Promise<number> {
  return Number(await inside(container, "cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"01\" || $4 == \"08\"' | wc -l"))
}

const helperFiles = async () => (await kuasar.sh(`ls /proc/${await pidOf(node, pod.id, 'vhost-device-vsock')}/fd`)).split('\n').length

/** The sandboxer's connection to the agent is opened by its first heartbeat, and stays. */
const settledFiles = async () => (await sandboxer.service.openFiles()).filter((file) => !file.startsWith('socket')).length
const before = { sockets: 0, others: await settledFiles(), helper: await helperFiles() }
before.sockets = (await sandboxer.service.openFiles()).length - before.others

/** Nothing of any forward is left: in the guest, in its vsock device, in the sandboxer. */
async function nothingLeft(): Promise<void> {
  await until('no connection is left in the guest', async () => (await connections()) === 0)
  // One more of each for the heartbeat's connection, whenever it came.
  await until('no connection is left in the vsock device', async () => (await helperFiles()) <= before.helper + 1)
  await until('no connection is left in the sandboxer', async () => (await sandboxer.service.openFiles()).length <= before.sockets + before.others + 1)
}

async function echoes(forward: PortForward, text: string): Promise<void> {
  for (const [index, port] of forward.ports.entries()) await port.write(`${text} ${index}\n`)
  for (const [index, port] of forward.ports.entries()) await port.until((received) => received.toString() === `${text} ${index}\n`)
}

t.test('what a pod costs while nobody forwards', async (t) => {
  const attachments = (await sandboxer.service.openFiles()).filter((file) => file === 'anon_inode:bpf_link')
  t.equal(attachments.length, 1, 'one attachment, beside its listener')
  using services = connectServices(node)
  const { spans } = await services.admin.Trace({ id: pod.id })
  const span = spans.find(({ name }) => name === 'forwards')
  t.ok(span, 'it is in the trace of the start')
  t.comment(`${Number(BigInt(span?.endNanos ?? 0) - BigInt(span?.startNanos ?? 0)) / 1e6} ms of the host's, while the guest boots`)
  for (const { name, startNanos, endNanos } of spans) if (/listening|configured/.test(name)) t.comment(`${name}: ${Number(BigInt(endNanos) - BigInt(startNanos)) / 1e6} ms`)
})

t.test('servers on every address, on 127.0.0.1 alone and on ::1 alone', async (t) => {
  for (const port of [7000, 7001, 7002]) {
    const forward = await pod.portForward(port)
    await echoes(forward, `hello ${port}`)
    forward.close()
    await forward.closed
    t.pass(`${port}`)
  }
  await nothingLeft()
})

t.test(`${BULK_MIB} MiB each way, byte for byte`, async (t) => {
  const forward = await pod.portForward(7001)
  const [port] = forward.ports
  if (port === undefined) throw new Error('no port')
  const block = blockOfLines(2)
  const startMs = performance.now()
  for (let i = 0; i < BULK_MIB; i++) await port.write(block)
  await port.until((received) => received.length >= BULK_MIB * MiB)
  t.comment(`${Math.round(performance.now() - startMs)} ms`)
  t.equal(md5(port.received), md5(Buffer.concat(Array.from({ length: BULK_MIB }, () => block))))
  forward.close()
  await nothingLeft()
})

t.test(`${FORWARDS} forwards at once`, async (t) => {
  const each = Math.min(PORTS_MAX, FORWARDS / 2)
  const startMs = performance.now()
  const forwards = await Promise.all([1, 2].map(() => pod.portForward(...Array.from({ length: each }, (_, i) => 7000 + (i % 3)))))
  await Promise.all(forwards.map((forward, i) => echoes(forward, `client ${i}`)))
  t.equal(await connections(), 2 * 2 * each, 'all of them are open')
  t.comment(`${2 * each} answered after ${Math.round(performance.now() - startMs)} ms`)
  for (const forward of forwards) forward.close()
  await nothingLeft()
})

t.test('a port nobody listens on', async (t) => {
  const { pid } = sandboxer.service
  for (let i = 0; i < 3; i++) {
    const startMs = performance.now()
    const forward = await pod.portForward(9)
    await forward.closed
    t.comment(`${Math.round(performance.now() - startMs)} ms`)
    t.match(forward.ports[0]?.error, /error forwarding port 9 to pod .*connection reset by peer/)
  }
  const startMs = performance.now()
  t.match(await client('dial', '9'), { error: 'ECONNRESET' }, 'without containerd')
  t.comment(`${Math.round(performance.now() - startMs)} ms, the client's own start included`)
  t.equal(sandboxer.service.pid, pid)
  await nothingLeft()
})

t.test('half-closes, each way', async (t) => {
  const bytes = 8 * MiB
  const asked = await client('ask', '7003', String(bytes))
  t.equal(asked.received?.text, `${asked.sent}  -\n`, 'the answer to a whole question')

  const ending = container.execSync(['sh', '-c', endsFirst])
  await until('it listens', async () => (await inside(container, 'cat /proc/net/tcp /proc/net/tcp6')).includes(':1B62 '))
  const answered = await client('listen-first', '7010', String(bytes))
  t.equal(answered.received?.text, 'that is all\n')
  t.equal((await ending).exitCode, 0)
  t.equal(await inside(container, 'md5sum </got'), `${answered.sent}  -`, 'what was sent after the server’s end')
  await nothingLeft()
})

t.test('a client that vanishes in the middle', async (t) => {
  const download = await pod.portForward(7005)
  await download.ports[0]?.until((received) => received.length > MiB)
  download.close()
  const upload = await pod.portForward(7001)
  await upload.ports[0]?.write(Buffer.alloc(4 * MiB))
  upload.close()
  await nothingLeft()
  t.pass('the servers saw the end')
})

t.test('whoever does not read holds the other up', async (t) => {
  const { pid } = sandboxer.service
  await t.test('a server', async (t) => {
    const sandboxerAtStart = await resetPeak(pid)
    const guestAtStart = await guestMiB()
    const uploading = client('ask', '7004', String(STALLED_MIB * MiB), '/scratch/progress')
    await stillness(progress)
    const sent = await progress()
    t.ok(sent < STALLED_MIB * MiB, `${sent / MiB} MiB were taken`)
    t.comment(`${sent / MiB} MiB were taken`)
    t.ok((await guestMiB()) - guestAtStart < GROWTH_MIB_MAX, `the guest: ${guestAtStart} → ${await guestMiB()} MiB`)
    await inside(container, 'touch /go')
    const { received, sent: digest } = await uploading
    t.equal(received?.text, `${digest}  -\n`, 'all of it came in the end')
    const peak = await peakMiB(pid)
    t.ok(peak - sandboxerAtStart < GROWTH_MIB_MAX, `the sandboxer: ${sandboxerAtStart} → ${peak} MiB`)
    t.comment(`the sandboxer: ${sandboxerAtStart} → ${peak} MiB`)
  })
  await t.test('a client', async (t) => {
    const sandboxerAtStart = await resetPeak(pid)
    const guestAtStart = await guestMiB()
    const reading = client('read-late', '7006', '/scratch/read')
    await until('it is connected', async () => (await connections()) > 0)
    let most = 0
    await stillness(async () => {
      most = Math.max(most, await guestMiB())
      return Number(await inside(container, "cat /proc/net/tcp | awk '$4 == \"01\" {print $5}' | tr -d : | cut -c 9- | sort | tail -n 1 | sed 's/^/0x/' | xargs printf '%d'"))
    })
    t.ok(most - guestAtStart < GROWTH_MIB_MAX, `the guest: ${guestAtStart} → ${most} MiB`)
    await writeFile(node.path('/scratch/read'), '')
    t.equal((await reading).received?.md5, md5(Buffer.alloc(STALLED_MIB * MiB)))
    const peak = await peakMiB(pid)
    t.ok(peak - sandboxerAtStart < GROWTH_MIB_MAX, `the sandboxer: ${sandboxerAtStart} → ${peak} MiB`)
    t.comment(`the sandboxer: ${sandboxerAtStart} → ${peak} MiB`)
  })
  await nothingLeft()
})

t.test('a sandboxer that is killed takes its forwards along, and the next one has them again', async (t) => {
  const held = client('hold', '7001', '/scratch/held')
  await until('it is served', async () => existsSync(node.path('/scratch/held')))
  await sandboxer.stop('SIGKILL')
  // With its process the kernel ends a connection as if by will.
  t.match(await held, { error: '' })
  t.match(await client('dial', '7001'), { error: 'ECONNREFUSED' }, 'localhost is nobody’s')
  await until('the guest’s end of it is closed', async () => (await connections()) === 0)
  await sandboxer.start()
  const forward = await pod.portForward(7001)
  await echoes(forward, 'again')
  forward.close()
  await until('no connection is left in the guest', async () => (await connections()) === 0)
})

t.test('a pod of runc’s in the same node is not touched', async (t) => {
  const other = await cri.runPod({ name: 'plain' }, 'runc')
  await serving(other)
  const forward = await other.portForward(7001)
  await echoes(forward, 'plain')
  forward.close()
  const nobody = await other.portForward(9)
  await nobody.closed
  t.match(nobody.ports[0]?.error, /connection refused/)
  await other.remove()
})

t.test('what is left', async (t) => {
  const withPod = (await sandboxer.service.openFiles()).length
  const forward = await pod.portForward(7001)
  await echoes(forward, 'to the end')
  await pod.remove()
  await forward.closed
  t.equal(existsSync(node.path(netnsPath ?? '')), false, 'the namespace is gone')
  const files = await until('descriptors are fewer than with the pod', async () => {
    const open = await sandboxer.service.openFiles()
    return open.length <= withPod - 2 ? open : undefined
  })
  t.notOk(files.includes('anon_inode:bpf_link'), 'the attachment among them')
  t.strictSame(await kuasar.leaks(), [])
})

/** What the client in the node says it has written, in bytes. */
async function progress(): Promise<number> {
  return Number(await readFile(node.path('/scratch/progress'), 'utf8').catch(() => '0'))
}

/** All memory of the guest that is in use and cannot be taken back. */
async function guestMiB(): Promise<number> {
  const text = await inside(container, 'cat /proc/meminfo')
  const KiB = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1])
  return Math.round((KiB('MemTotal') - KiB('MemAvailable')) / 1024)
}

/** Resolves when `measure` answers the same three times in a row. */
async function stillness(measure: () => Promise<number>): Promise<void> {
  let last = -1
  let same = 0
  for (let i = 0; same < 3; i++) {
    if (i === 300) throw new Error('it never came to a stop')
    await sleep(1000)
    const now = await measure()
    same = now > 0 && now === last ? same + 1 : 0
    last = now
  }
}
