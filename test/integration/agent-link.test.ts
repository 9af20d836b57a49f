/** The agent and a sandboxer that comes and goes, and peers that mean it harm. */
import { once } from 'node:events'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { encodeMethod } from '#shared/ttrpc/envelope.ts'
import { frameHeaderBytes, frameType, writeFrameHeader } from '#shared/ttrpc/frame.ts'
import { AgentNode, missingForAgent } from '#test/support/agent-node.ts'
import { RawStream } from '#test/support/raw-stream.ts'
import { dialHybrid, rpc, TaskClient } from '#test/support/task-client.ts'

const missing = missingForAgent()
if (missing !== undefined) t.bailout(`this machine lacks ${missing}`)

// Under load the machine's two cores are everybody's.
t.setTimeout(240_000)

const node = await AgentNode.start()
t.teardown(() => node[Symbol.asyncDispose]())
const { host } = node

const sh = (script: string) => ({ args: ['/bin/sh', '-c', script] })

function topicsOf(id: string): string[] {
  return host.events.filter(({ event }) => event?.value.toString().includes(id)).map(({ topic }) => topic)
}

t.test('the first hello of a boot carries its marks, and Ready comes once', async (t) => {
  const [hello] = host.hellos
  t.match(hello, { protocolVersion: 1, resumed: false })
  t.strictSame(hello?.boot.map(({ name }) => name), ['agent-exec', 'agent-main'])
  t.equal(host.ready, 1)
})

t.test('while the sandboxer is away everything goes on, and events wait for it in order', async (t) => {
  using client = await node.container('away', sh('sleep 1000'))
  await client.create()
  await client.start()
  await host.until(() => topicsOf('away').length === 2)
  await host.stop()
  const exec = await client.exec('e1', ['/bin/echo', 'alone'])
  t.equal(await exec.stdout?.text(), 'alone\n')
  t.equal(await exec.exit, 0)
  await client.delete('e1')
  await client.kill(9)
  t.equal(await client.wait(), 137)
  await host.start()
  await host.until(() => host.hellos.length >= 2)
  t.match(host.hellos.at(-1), { resumed: true })
  await host.until(() => topicsOf('away').length >= 6)
  t.strictSame(topicsOf('away').slice(2), ['/tasks/exec-added', '/tasks/exec-started', '/tasks/exit', '/tasks/exit'])
  const numbers = host.events.map(({ sequence }) => sequence)
  t.strictSame(numbers, numbers.toSorted((a, b) => a - b), 'numbered upwards')
  t.equal(host.ready, 1, 'Ready is said once per boot')
  await client.delete()
})

t.test('a deletion does not wait for a sandboxer that is away; the release follows when it is back', async (t) => {
  using client = await node.container('owed', sh('exit 4'))
  await client.create()
  const { exit } = await client.start()
  t.equal(await exit, 4)
  await host.stop()
  await client.delete()
  t.notOk(host.released.includes('owed'))
  await host.start()
  await host.until(() => host.released.includes('owed'))
  t.pass('released')
})

t.test('an event that containerd did not take is repeated', async (t) => {
  host.refusePublish = true
  using client = await node.container('repeat', sh('exit 0'))
  await client.create()
  const { exit } = await client.start()
  t.equal(await exit, 0, 'nobody waits for it')
  await delay(100)
  t.strictSame(topicsOf('repeat'), [])
  host.refusePublish = false
  await host.until(() => topicsOf('repeat').length === 3)
  t.strictSame(topicsOf('repeat'), ['/tasks/create', '/tasks/start', '/tasks/exit'])
  await client.delete()
})

t.test('a create waits for a sandboxer that is being restarted', async (t) => {
  await host.stop()
  using client = await node.container('patient', sh('exit 2'))
  const created = client.create()
  await delay(200)
  await host.start()
  await created
  const { exit } = await client.start()
  t.equal(await exit, 2)
  await client.delete()
})

t.test('a create whose caller goes away is undone', async (t) => {
  const { promise: asked, resolve } = Promise.withResolvers<void>()
  const { promise: answer, resolve: go } = Promise.withResolvers<void>()
  const prepare = host.prepare
  host.prepare = async (id) => {
    resolve()
    await answer
    return await prepare(id)
  }
  const client = await node.container('abandoned', sh('sleep 1000'))
  const created = client.create()
  created.catch(() => {})
  await asked
  client[Symbol.dispose]()
  go()
  await t.rejects(created)
  await host.until(() => host.released.includes('abandoned'))
  host.prepare = prepare
  using agent = await node.agent()
  t.strictSame((await agent.calls.Tasks({})).tasks, [])
  using again = await node.container('abandoned', sh('exit 0'))
  await again.create()
  await again.start()
  t.equal(await again.wait(), 0)
  await again.delete()
})

/** A container's whole life, with an exec in it. */
async function live(t: Test, on: AgentNode, id: string): Promise<void> {
  using client = await on.container(id, sh('sleep 1000'))
  await client.create()
  await client.start()
  const exec = await client.exec(`${id}-exec`, ['/bin/echo', 'alone'])
  t.equal(await exec.stdout?.text(), 'alone\n')
  t.equal(await exec.exit, 0)
  t.equal(await client.delete(`${id}-exec`), 0)
  await client.kill(9)
  t.equal(await client.wait(), 137)
  t.equal(await client.delete(), 137)
  await on.host.until(() => on.host.released.includes(id))
}

t.test('a create whose prepare hangs holds up no other container', async (t) => {
  const { promise: asked, resolve } = Promise.withResolvers<void>()
  const { promise: answer, resolve: go } = Promise.withResolvers<void>()
  const prepare = host.prepare
  host.prepare = async (id) => {
    if (id === 'held') {
      resolve()
      await answer
    }
    return await prepare(id)
  }
  using held = await node.container('held', sh('exit 5'))
  const created = held.create()
  created.catch(() => {})
  await asked
  await live(t, node, 'beside')
  await t.rejects(held.status(), { code: 'NOT_FOUND' }, 'which all the while was not there')
  go()
  host.prepare = prepare
  await created
  const { exit } = await held.start()
  t.equal(await exit, 5)
  await held.delete()
})

/** crun, and for the container "held" a wait before each operation `$dir/hold-OPERATION` is there for; it says so with `$dir/at-OPERATION`. */
const slowCrun = (dir: string) => `#!/bin/sh
for last; do :; done
if [ "$last" = held ] && [ -e ${dir}/hold-$9 ]; then
  : >${dir}/at-$9
  while [ -e ${dir}/hold-$9 ]; do sleep 0.02; done
fi
exec /usr/bin/crun "$@"
`

t.test('a create, an exec and a delete that hang hold up no other container', async (t) => {
  const dir = t.testdir()
  writeFileSync(`${dir}/crun`, slowCrun(dir), { mode: 0o755 })
  await using slow = await AgentNode.start({ paths: { crun: `${dir}/crun` } })
  using held = await slow.container('held', sh('sleep 1000'))
  const hangs = async <T>(operation: string, work: () => Promise<T>): Promise<T> => {
    writeFileSync(`${dir}/hold-${operation}`, '')
    const working = work()
    working.catch(() => {})
    while (!existsSync(`${dir}/at-${operation}`)) await delay(10)
    await live(t, slow, `beside-${operation}`)
    rmSync(`${dir}/hold-${operation}`)
    return await working
  }
  await hangs('create', () => held.create())
  await held.start()
  const { exit } = await hangs('exec', () => held.exec('e1', ['/bin/true']))
  t.equal(await exit, 0)
  await held.kill(9)
  await held.wait()
  t.equal(await hangs('delete', () => held.delete()), 137)
})

t.test('a refusal of the sandboxer\'s reaches containerd as it is', async (t) => {
  const prepare = host.prepare
  host.prepare = () => {
    throw new RuntimeError('INVALID_ARGUMENT', 'mount /x: type "weird" is not supported')
  }
  using client = await node.container('refused', sh('true'))
  await t.rejects(client.create(), { code: 'INVALID_ARGUMENT', message: /type "weird" is not supported/ })
  host.prepare = () => ({ spec: Buffer.from('{"root":[]}'), pidNamespace: 'PID_NAMESPACE_PRIVATE' })
  await t.rejects(client.create(), { code: 'INVALID_ARGUMENT', message: /expected root to be of type object/ })
  host.prepare = () => ({ spec: Buffer.from('{'), pidNamespace: 'PID_NAMESPACE_PRIVATE' })
  await t.rejects(client.create(), { code: 'INVALID_ARGUMENT', message: /not JSON/ })
  host.prepare = () => ({ storages: [{ type: 'tmpfs', source: 'x', target: '/etc', options: [] }] })
  await t.rejects(client.create(), { code: 'INVALID_ARGUMENT', message: /expected a plain path below/ })
  host.prepare = () => ({ storages: [{ type: 'tmpfs', source: 'x', target: `${node.dir}/run/../../etc`, options: [] }] })
  await t.rejects(client.create(), { code: 'INVALID_ARGUMENT', message: /expected a plain path below/ })
  host.prepare = prepare
})

t.test('garbage, oversize frames and half a frame end that connection and no other', async (t) => {
  using client = await node.container('hostile', sh('sleep 1000'))
  await client.create()
  await client.start()
  const garbage = connect(node.socket)
  garbage.on('error', () => {})
  garbage.write('GET / HTTP/1.1\r\n\r\n')
  garbage.write(Buffer.alloc(1024 * 1024, 0xff))
  const big = await dialHybrid(node.socket)
  const header = Buffer.alloc(frameHeaderBytes)
  writeFrameHeader(header, 0, 64 * 1024 * 1024, 1, frameType.request, 0)
  big.write(Buffer.concat([header, Buffer.alloc(1024 * 1024)]))
  const half = await dialHybrid(node.socket)
  half.end(header.subarray(0, 5))
  const long = connect(node.socket)
  long.on('error', () => {})
  long.write('CONNECT 1024 and then some more than any line may have')
  await Promise.all([once(half, 'close'), once(long, 'close')])
  const mad = await dialHybrid(node.socket)
  const body = encodeMethod('containerd.task.v3.Task', 'State')
  writeFrameHeader(header, 0, body.length + 3, 1, frameType.request, 0)
  mad.write(Buffer.concat([header, body, Buffer.from([0x1a, 0xff, 0x01])]))
  await once(mad, 'data')
  t.equal(await client.status(), 'RUNNING')
  for (const socket of [garbage, big, mad]) socket.destroy()
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('streams that make no sense are refused; unknown ids wait without harm', async (t) => {
  const open = async (id: string) => new RawStream(await dialHybrid(node.socket), id)
  await t.rejects((await open('')).next(), /stream id/)
  await t.rejects((await open('x'.repeat(10_000))).next(), /stream id/)
  const unnamed = await open('unnamed')
  unnamed.send({ type_url: 'google.protobuf.Empty', value: Buffer.alloc(0) })
  t.ok(await unnamed.next(), 'acknowledged')
  const waiting = await Promise.all(Array.from({ length: 200 }, async (_, index) => {
    const stream = await open(`nobody-${index}-stdout`)
    return { stream, acknowledged: (await stream.next()) !== undefined }
  }))
  t.ok(waiting.every(({ acknowledged }) => acknowledged))
  using client = await node.container('sane', sh('cat'))
  const { stdout, stderr } = await client.create({ stdin: true, manual: true })
  void stderr?.text()
  await client.start()
  const greedy = await open('sane-stdin')
  t.ok(await greedy.next())
  t.ok(await greedy.next(), 'a window')
  greedy.send(rpc.any.pack('containerd.types.transfer.Data', { data: Buffer.alloc(1024 * 1024) }))
  await t.rejects(greedy.next(), /came with a window of/)
  const lying = await open('sane-stdout')
  t.ok(await lying.next())
  lying.send(rpc.any.pack('containerd.types.transfer.WindowUpdate', { update: -5 }))
  await t.rejects(lying.next(), /window update of -5/)
  for (const { stream } of waiting) stream.drop()
  unnamed.drop()
  await t.rejects(async () => await stdout?.next(), /another reader/)
  const again = await client.open('sane', { stdin: true, stderr: false })
  await again.stdin?.write(Buffer.from('still works'))
  again.stdin?.end()
  t.equal(await again.stdout?.text(), 'still works')
  await client.kill(9).catch(() => {})
  await client.wait()
  await client.delete()
})

t.test('when its PID 1 dies, or it is killed, the agent says why', async (t) => {
  const other = await AgentNode.start()
  using client = await TaskClient.connect(other.socket, 'none')
  t.ok(client)
  process.kill(other.machinePid(other.agentPid()), 'SIGKILL')
  await other.exited
  t.match(other.console, /the agent \(pid \d+\) was killed by signal 9/)
  await other[Symbol.asyncDispose]()
})

t.test('Shutdown ends containers in their own time, and then the machine', async (t) => {
  const other = await AgentNode.start()
  using client = await other.container('polite', sh('trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.05; done'))
  const { stdout } = await client.create()
  await client.start()
  await stdout?.until(/up/)
  using agent = await other.agent()
  await agent.calls.Shutdown({ graceMillis: 20_000 })
  await other.exited
  t.match(await stdout?.text().catch(() => ''), /bye/)
  await other[Symbol.asyncDispose]()
})
