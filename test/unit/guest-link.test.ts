/** The agent's side of the link: events in order and within limits, logs in batches, the link's own life. */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { TaskEvent } from '#guest/container/ports.ts'
import { EVENTS_AT_ONCE_MAX, EVENTS_MAX, EventQueue, type NumberedEvent } from '#guest/link/events.ts'
import { acceptHybrid } from '#guest/link/hybrid.ts'
import { HostLink } from '#guest/link/link.ts'
import { AgentLog, LOG_BATCH_MAX, LOG_RECORDS_MAX } from '#guest/link/logs.ts'
import { createLogSender, createPublisher, helloOf } from '#guest/services/host.ts'
import { RuntimeError } from '#shared/errors.ts'
import { LOG_MESSAGE_LENGTH_MAX } from '#shared/link-limits.ts'
import { silentLog, type LogRecord } from '#shared/log.ts'
import { FakeHost } from '#test/support/fake-host.ts'
import { rpc } from '#test/support/task-client.ts'

const dir = mkdtempSync(join(tmpdir(), 'kuasar-link-'))
const testing = new AbortController()
const alive = setInterval(() => {}, 1000)
t.teardown(() => {
  testing.abort()
  clearInterval(alive)
  rmSync(dir, { recursive: true })
})

const oom = (containerId: string): TaskEvent => ({ kind: 'oom', containerId })

const idsOf = (events: readonly NumberedEvent[]): string => events.map(({ event }) => event.containerId).join(' ')

t.test('events go out one call at a time, in order, numbered from 1; what comes meanwhile goes together', async (t) => {
  const sent: [bigint, string][][] = []
  let under = 0
  const queue = new EventQueue(async (events) => {
    t.equal(++under, 1)
    await new Promise((wake) => setImmediate(wake))
    under--
    sent.push(events.map(({ sequence, event }) => [sequence, event.containerId]))
  }, silentLog)
  await Promise.all(['a', 'b', 'c'].map((id) => queue.publish(oom(id))))
  t.strictSame(sent, [[[1n, 'a']], [[2n, 'b'], [3n, 'c']]])
})

t.test('the beginning of an exec travels with what comes after it, or by itself after a while', async (t) => {
  const sent: string[] = []
  const queue = new EventQueue(async (events) => void sent.push(idsOf(events)), silentLog)
  const added = queue.publish({ kind: 'exec-added', containerId: 'a', execId: 'e' })
  const started = queue.publish({ kind: 'exec-started', containerId: 'b', execId: 'e', pid: 2 })
  t.strictSame(sent, [], 'they wait')
  await Promise.all([added, started, queue.publish(oom('c'))])
  t.strictSame(sent, ['a b c'])
  await queue.publish({ kind: 'exec-added', containerId: 'd', execId: 'f' })
  t.strictSame(sent, ['a b c', 'd'])
})

t.test('a refused event goes alone, and those sent with it are not dropped', async (t) => {
  const attempts: string[] = []
  const queue = new EventQueue(async (events) => {
    attempts.push(idsOf(events))
    await new Promise((wake) => setImmediate(wake))
    if (events.some(({ event }) => event.containerId === 'bad')) throw new RuntimeError('INVALID_ARGUMENT', 'no such topic')
  }, silentLog)
  await Promise.all(['first', 'a', 'bad', 'b', 'c'].map((id) => queue.publish(oom(id))))
  t.strictSame(attempts, ['first', 'a bad b c', 'a', 'bad', 'bad', 'bad', 'b', 'c'])
})

t.test('an event is repeated while the sandboxer is away, and dropped when it is refused for good', async (t) => {
  const attempts: string[] = []
  const queue = new EventQueue(async (events) => {
    attempts.push(idsOf(events))
    if (attempts.length < 3) throw new RuntimeError('UNAVAILABLE', 'restarting')
    if (attempts.length < 7) throw new RuntimeError('RESOURCE_EXHAUSTED', 'too many events wait')
    if (attempts.at(-1) === 'bad') throw new RuntimeError('INVALID_ARGUMENT', 'no such topic')
  }, silentLog)
  await queue.publish(oom('away'))
  await queue.publish(oom('bad'))
  await queue.publish(oom('next'))
  t.strictSame(attempts, [...Array.from({ length: 7 }, () => 'away'), 'bad', 'bad', 'bad', 'next'])
})

t.test('a full queue drops its oldest, but not the one on its way', async (t) => {
  const { promise, resolve } = Promise.withResolvers<void>()
  const sent: string[] = []
  const queue = new EventQueue(async (events) => {
    await promise
    t.ok(events.length <= EVENTS_AT_ONCE_MAX)
    sent.push(...events.map(({ event }) => event.containerId))
  }, silentLog)
  const all = Array.from({ length: EVENTS_MAX + 5 }, (_, index) => queue.publish(oom(String(index))))
  t.equal(queue.dropped, 5)
  resolve()
  await Promise.all(all)
  t.equal(sent.length, EVENTS_MAX)
  t.strictSame(sent.slice(0, 3), ['0', '6', '7'])
})

t.test('records reach the sandboxer in batches; what was dropped is counted', async (t) => {
  const lines: string[] = []
  const agentLog = new AgentLog('info', (line) => lines.push(line))
  for (let index = 0; index < LOG_RECORDS_MAX + 7; index++) agentLog.log.info(`line ${index}`)
  agentLog.log.debug('below the level')
  const batches: (readonly LogRecord[])[] = []
  let dropped = 0
  let failures = 1
  const { promise, resolve } = Promise.withResolvers<void>()
  agentLog.forwardTo(async (records, lost) => {
    if (failures-- > 0) throw new RuntimeError('UNAVAILABLE', 'away')
    batches.push(records)
    dropped += lost
    if (records.at(-1)?.message === `line ${LOG_RECORDS_MAX + 6}`) resolve()
  })
  await promise
  t.equal(dropped + batches.flat().length, LOG_RECORDS_MAX + 7, 'every record is sent or counted')
  t.ok(batches.every((batch) => batch.length <= LOG_BATCH_MAX))
  t.equal(lines[0], 'line 0\n')
  agentLog.log.with({ container: 'c' }).warn('careful', { error: new Error('x') })
  t.equal(lines.at(-1), 'warn: careful (container=c error=x)\n')
  const came = async (message: string) => {
    while (batches.at(-1)?.at(-1)?.message !== message) await new Promise((wake) => setTimeout(wake, 5))
  }
  await came('careful')
  agentLog.log.info('after a silence')
  await came('after a silence')
})

/** A link with what its owner does, and a promise of its end. */
function link(path: string, configure: () => Promise<void> = async () => {}) {
  const said: string[] = []
  const it = new HostLink({
    rpc,
    log: silentLog,
    writeBytesMax: 1024 * 1024,
    async dial() {
      const socket = connect(path)
      await once(socket, 'connect')
      return socket
    },
    hello: (resumed) => helloOf('6.1', resumed, [], 1n),
    async configure() {
      said.push('configure')
      await configure()
    },
    lost: () => said.push('lost'),
    async ready(calls) {
      said.push('ready')
      await calls.Ready({})
    },
  })
  const over = it.run(testing.signal)
  over.catch(() => {})
  return { it, said, over }
}

t.test('the link configures once, says Ready once, and comes back', async (t) => {
  const path = join(dir, 'life')
  const host = new FakeHost(path, () => ({}))
  const { it, said } = link(path)
  const early = it.calls(10_000)
  await host.start()
  await (await early).Log({ records: [{ message: 'hello' }] })
  t.ok(it.up)
  await host.stop()
  const again = it.call(10_000, (calls) => calls.Prepare({ containerId: 'x' }))
  await host.start()
  await again
  t.strictSame(said, ['configure', 'ready', 'lost'])
  t.strictSame(host.hellos.map(({ resumed }) => resumed), [false, true])
  await host.stop()
  while (it.up) await new Promise((wake) => setImmediate(wake))
  await t.rejects(it.calls(20), { code: 'UNAVAILABLE', message: /the sandboxer has been away for 0.02 s/ })
})

t.test('a create says how long crun took, and how long before the message was sent that was', async (t) => {
  const path = join(dir, 'creates')
  await using host = new FakeHost(path, () => ({}))
  await host.start()
  let nowNanos = 900n
  const send = createPublisher(link(path).it, rpc, () => nowNanos)
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  const create: NumberedEvent = {
    sequence: 1n,
    event: { kind: 'create', containerId: 'c', bundle: '/b', stdio, pid: 7, crun: { beganNanos: 500n, endedNanos: 800n } },
  }
  host.refusePublish = true
  await t.rejects(send([create]), { code: 'UNAVAILABLE' })
  host.refusePublish = false
  nowNanos = 1000n
  await send([create, { sequence: 2n, event: oom('c') }])
  t.strictSame(host.events.map(({ crun }) => crun), [{ tookNanos: '300', endedNanosAgo: '200' }, null], 'of the time when it was sent at last')
})

t.test('the longest records get through, cut', async (t) => {
  const path = join(dir, 'records')
  await using host = new FakeHost(path, () => ({}))
  await host.start()
  const agentLog = new AgentLog('info', () => {})
  for (let index = 0; index < 2 * LOG_BATCH_MAX; index++) agentLog.log.info('…'.repeat(10_000), { output: '…'.repeat(10_000) })
  agentLog.log.info('the last')
  agentLog.forwardTo(createLogSender(link(path).it))
  await host.until(() => host.logs.includes('the last'))
  t.strictSame(host.logs.map(({ length }) => length), [...Array.from({ length: 2 * LOG_BATCH_MAX }, () => LOG_MESSAGE_LENGTH_MAX), 8])
})

t.test('a link to a sandboxer that is gone unheard is renewed when the next one calls', async (t) => {
  const path = join(dir, 'unheard')
  const host = new FakeHost(path, () => ({}))
  host.hello = { ...host.hello, instance: 'first' }
  const { it, said } = link(path)
  await host.start()
  await it.calls(10_000)
  it.calledBy('first')
  it.calledBy('')
  t.ok(it.up, 'its own sandboxer may call, and one that says nothing of itself')
  host.hello = { ...host.hello, instance: 'second' }
  // The first sandboxer has the request and is gone.
  const asked = Promise.withResolvers<void>()
  host.prepare = () => {
    asked.resolve()
    return new Promise(() => {})
  }
  const underWay = it.call(10_000, (calls) => calls.Prepare({ containerId: 'x' }))
  await asked.promise
  host.prepare = () => ({ pidNamespace: 'PID_NAMESPACE_POD' })
  it.calledBy('second')
  while (host.hellos.length < 2) await new Promise((wake) => setImmediate(wake))
  t.match(await underWay, { pidNamespace: 'PID_NAMESPACE_POD' }, 'what was under way is asked of the second')
  it.calledBy('second')
  t.ok(it.up)
  t.strictSame(said, ['configure', 'ready', 'lost'])
  await host.stop()
})

t.test('a link lost before Ready is tried again, without configuring twice', async (t) => {
  const path = join(dir, 'lost')
  const host = new FakeHost(path, () => ({}))
  await host.start()
  let lose = true
  const { it, said } = link(path, async () => {
    if (!lose) return
    lose = false
    await host.stop()
    await host.start()
  })
  await it.calls(10_000)
  t.equal(said.filter((what) => what === 'configure').length, 1)
  t.ok(said.includes('ready'))
  t.strictSame(host.hellos.map(({ resumed }) => resumed), [false, true], 'the boot is the same one')
  await host.stop()
})

t.test('Ready is said again when its answer was lost, by a guest that says it is the same', async (t) => {
  const path = join(dir, 'lost-answer')
  const host = new FakeHost(path, () => ({}))
  await host.start()
  host.beforeReadyAnswer = async () => {
    host.beforeReadyAnswer = undefined
    await host.stop()
    await host.start()
  }
  const { it, said } = link(path)
  await it.calls(10_000)
  t.strictSame(said, ['configure', 'ready', 'ready'])
  t.strictSame(host.hellos.map(({ resumed }) => resumed), [false, true])
  await host.stop()
})

t.test('a guest that cannot be configured is the end of the link', async (t) => {
  const path = join(dir, 'bad')
  const host = new FakeHost(path, () => ({}))
  await host.start()
  const { over } = link(path, async () => {
    throw new RuntimeError('INVALID_ARGUMENT', 'no such sysctl')
  })
  await t.rejects(over, { code: 'INVALID_ARGUMENT', message: 'no such sysctl' })
  await host.stop()
})

t.test('a hybrid vsock: with a handshake in any pieces, or without', async (t) => {
  const path = join(dir, 'hybrid')
  const accepted: Socket[] = []
  const server = createServer((socket) => acceptHybrid(socket, (given) => {
    accepted.push(given)
    given.on('data', (chunk: Buffer) => given.write(chunk))
  }))
  server.listen(path)
  await once(server, 'listening')
  const talk = async (pieces: readonly string[], until: RegExp) => {
    const socket = connect(path)
    let text = ''
    for (const piece of pieces) {
      socket.write(piece)
      await new Promise((wake) => setImmediate(wake))
    }
    while (!until.test(text)) text += String((await once(socket, 'data'))[0])
    socket.destroy()
    return text
  }
  t.equal(await talk(['CONNECT 1024\n', 'echo'], /echo$/), 'OK 1024\necho')
  t.equal(await talk(['CON', 'NECT 10', '24\nec', 'ho'], /echo$/), 'OK 1024\necho')
  t.equal(await talk(['CONNECT 1024\necho'], /echo$/), 'OK 1024\necho')
  t.equal(await talk(['\u0000 frame'], /frame$/), '\u0000 frame')
  const wrong = connect(path)
  wrong.on('error', () => {})
  wrong.write('CONNECT x\n')
  await once(wrong, 'close')
  t.equal(accepted.length, 4)
  server.close()
})
