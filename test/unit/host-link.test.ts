/** What a guest may do with its link, and what becomes of one that means harm. */
import { once } from 'node:events'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createGuestLinks } from '#host/api/host-service.ts'
import { GuestLog } from '#host/api/guest-log.ts'
import type { Claimed, GuestPeer, GuestRefusal, Hello } from '#host/sandbox/guest.ts'
import { listenForGuest } from '#host/link/listener.ts'
import { negotiate } from '#host/sandbox/handshake.ts'
import { nowMs } from '#host/sandbox/trace.ts'
import { RuntimeError, statusCodes, type StatusName } from '#shared/errors.ts'
import { createLog, silentLog, type LogRecord } from '#shared/log.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import type { CallReport } from '#shared/ttrpc/options.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { threadCpuMs } from '#shared/ttrpc/time-share.ts'
import { poll } from '#test/node/poll.ts'
import { frame, RawPeer } from '#test/support/ttrpc-raw.ts'

const rpc = loadServices(loadProtos())

interface Heard {
  readonly hellos: Hello[]
  readonly prepared: string[]
  readonly published: string[]
  readonly created: { readonly id: string; readonly crun: Claimed }[]
}

async function listening(t: Test, onHello = () => {}) {
  const dir = await mkdtemp('/tmp/link-')
  const path = join(dir, 'vsock_1025')
  const heard: Heard = { hellos: [], prepared: [], published: [], created: [] }
  const peer: GuestPeer = {
    id: 's',
    hello(hello) {
      const protocolVersion = negotiate(hello.protocolVersion)
      heard.hellos.push(hello)
      onHello()
      const guest = { hostname: 'h', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 4096, hugepagesMiB: 2, memoryLimitBytes: 2 ** 33 }
      return { protocolVersion, sandboxId: 's', guest, pidsLimit: 4096, network: { links: [], routes: [], neighbours: [] }, cards: [], storages: [], logLevel: 'info' }
    },
    ready() {},
    async prepare(id) {
      heard.prepared.push(id)
      throw new RuntimeError('NOT_FOUND', `no container ${id} in sandbox s`)
    },
    async release() {},
    created: (id, crun) => void heard.created.push({ id, crun }),
    async publish(sequence, id, event) {
      heard.published.push(`${sequence} ${id} ${event.topic} ${event.typeUrl}`)
    },
  }
  const refused: GuestRefusal[] = []
  const answered: string[] = []
  const told = { onRefused: (what: GuestRefusal) => void refused.push(what), onCall: ({ path, code }: CallReport) => void answered.push(`${path.split('/').at(-1)} ${code}`) }
  const link = await createGuestLinks(rpc, 'unit', silentLog, told).listen(path, peer)
  t.teardown(async () => {
    await link[Symbol.asyncDispose]()
    await rm(dir, { recursive: true })
  })
  return { path, heard, link, refused, answered }
}

async function dial(path: string): Promise<Socket> {
  const socket = connect(path)
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

async function linked(path: string): Promise<{ readonly host: Calls<ServiceTypesOf<'host'>>; readonly client: TtrpcClient }> {
  const client = new TtrpcClient(await dial(path))
  return { client, host: client.calls(rpc.host) }
}

const hello = { protocolVersion: 1, agentVersion: 'a', kernelVersion: 'k', boottimeNanos: '5' }

t.test('a guest that dials in a loop is refused for a while, and then served', async (t) => {
  const { path, refused: told } = await listening(t)
  let dialled = 0
  const refused = async (): Promise<unknown> => {
    for (; dialled < 10_000; dialled++) {
      try {
        (await dial(path)).destroy()
      } catch (error) {
        return error
      }
    }
    return 'never'
  }
  t.match(await refused(), { code: /ENOENT|ECONNREFUSED/ }, `the dial after ${dialled}`)
  t.same(told, ['dials'], 'which is told')
  const again = await poll(10_000, () => linked(path).catch(() => undefined))
  t.match(await again?.host.Hello(hello), { sandboxId: 's' })
  t.equal((await stat(path)).mode & 0o777, 0o600)
  again?.client.close()
})

/** A listener that was dialled until it refused. */
async function resting(t: Test) {
  const dir = await mkdtemp('/tmp/link-')
  t.teardown(() => rm(dir, { recursive: true }))
  const path = join(dir, 'socket')
  const errors: Error[] = []
  const listener = await listenForGuest(path, { onConnection: (socket) => socket.destroy(), onError: (error) => errors.push(error) })
  while (await dial(path).then((socket) => socket.destroy(), () => undefined) !== undefined);
  return { path, errors, listener }
}

t.test('a listener that rests can be closed', async (t) => {
  const { path, errors, listener } = await resting(t)
  await listener[Symbol.asyncDispose]()
  await t.rejects(dial(path))
  t.same(errors, [])
})

t.test('a listener that cannot listen again after its rest tries until it can', async (t) => {
  const { path, errors, listener } = await resting(t)
  await writeFile(path, 'in the way')
  await poll(10_000, async () => errors[0])
  t.match(errors[0], { message: /cannot listen for the guest on .*EADDRINUSE/ })
  await rm(path)
  const again = await poll(10_000, () => dial(path).catch(() => undefined))
  t.ok(again)
  again?.destroy()
  await listener[Symbol.asyncDispose]()
})

t.test('Hello comes first, of a version that is spoken', async (t) => {
  const { path, heard } = await listening(t)
  t.equal((await stat(path)).mode & 0o777, 0o600)
  const { host, client } = await linked(path)
  for (const early of [host.Ready({}), host.Prepare({ containerId: 'c' }), host.Release({ containerId: 'c' }), host.Publish({}), host.Log({})])
    await t.rejects(early, { code: 'FAILED_PRECONDITION', message: /first call of a connection is Hello/ })
  await t.rejects(host.Hello({ ...hello, protocolVersion: 0 }), { code: 'FAILED_PRECONDITION', message: /agent speaks kuasar.host version 0/ })
  await t.rejects(host.Ready({}), { code: 'FAILED_PRECONDITION' }, 'a refused Hello is none')
  t.match(await host.Hello({ ...hello, protocolVersion: 9 }), { protocolVersion: 1, sandboxId: 's', hostname: 'h' })
  await host.Ready({})
  for (const again of [host.Hello(hello), host.Hello(hello)]) await t.rejects(again, { code: 'FAILED_PRECONDITION', message: 'a connection has one Hello' })
  t.equal(heard.hellos.length, 1)
  client.close()
})

t.test('sizes and the time are told in the units of the wire', async (t) => {
  const { path } = await listening(t)
  const { host, client } = await linked(path)
  const beforeMs = nowMs()
  const { realtimeNanos, shmBytes, hugepageBytes, memoryLimitBytes, pidsLimit } = await host.Hello(hello)
  t.same([shmBytes, hugepageBytes, memoryLimitBytes, pidsLimit], ['4096', String(2 * 1024 * 1024), String(2 ** 33), 4096])
  const realtimeMs = Number(BigInt(realtimeNanos) / 1_000_000n)
  t.ok(realtimeMs >= Math.floor(beforeMs) && realtimeMs <= nowMs(), `${realtimeNanos} ns`)
  client.close()
})

t.test('a guest that stays linked holds up nobody’s end', async (t) => {
  const { path, link } = await listening(t)
  const { host, client } = await linked(path)
  await host.Hello(hello)
  await link[Symbol.asyncDispose]()
  await client.closed
  await t.rejects(dial(path))
})

t.test('what a guest claims is bounded', async (t) => {
  const { path, heard } = await listening(t)
  const { host, client } = await linked(path)
  const boot = Array.from({ length: 2000 }, (_, index) => ({ name: `m${index}`, boottimeNanos: '18446744073709551615' }))
  await host.Hello({ ...hello, agentVersion: 'x'.repeat(100_000), boot, boottimeNanos: '18446744073709551615' })
  const [said] = heard.hellos
  t.equal(said?.agentVersion.length, 128)
  t.equal(said?.boot.length, 64)
  t.ok((said?.boottimeNanos ?? 0n) <= 2n ** 62n)
  client.close()
})

const emptyMarks = (length: number) => Array.from({ length }, () => ({}))

t.test('a message that an agent has no use for is not decoded', async (t) => {
  const { path, heard } = await listening(t)
  const { host, client } = await linked(path)
  await host.Hello(hello)
  await t.rejects(host.Hello({ ...hello, boot: emptyMarks(200_000) }), { code: 'RESOURCE_EXHAUSTED', message: /above the limit of 262144/ })
  await t.rejects(host.Hello({ ...hello, boot: emptyMarks(2045) }), { code: 'INVALID_ARGUMENT', message: /more than 2048 fields/ })
  t.equal(heard.hellos.length, 1)
  await host.Ready({})
  client.close()
})

t.test('nothing it names is a path or another’s', async (t) => {
  const { path, heard, answered } = await listening(t)
  const { host, client } = await linked(path)
  await host.Hello(hello)
  for (const containerId of ['', '..', '../../etc', '/abs', 'a/b', 'a\0b', 'x'.repeat(77)]) {
    await t.rejects(host.Prepare({ containerId }), { code: 'INVALID_ARGUMENT', message: /container id/ })
    await t.rejects(host.Release({ containerId }), { code: 'INVALID_ARGUMENT' })
  }
  t.same(heard.prepared, [])
  await t.rejects(host.Prepare({ containerId: 'other' }), { code: 'NOT_FOUND' })
  t.same([...new Set(answered)], ['Hello OK', 'Prepare INVALID_ARGUMENT', 'Release INVALID_ARGUMENT', 'Prepare NOT_FOUND'], 'and each is told')
  client.close()
})

const create = (sequence: string, containerId: string, crun?: { readonly tookNanos: string; readonly endedNanosAgo: string }) => ({
  sequence,
  topic: '/tasks/create',
  event: rpc.any.pack('containerd.events.TaskCreate', { containerId }),
  ...(crun && { crun }),
})

t.test('when crun ran is told beside its event, on the host’s clock, and never later than now', async (t) => {
  const { path, heard } = await listening(t)
  const { host, client } = await linked(path)
  await host.Hello(hello)
  const huge = '18446744073709551615'
  const wild = [create('3', 'c', { tookNanos: huge, endedNanosAgo: '0' }), create('4', 'd', { tookNanos: huge, endedNanosAgo: huge })]
  const beforeMs = nowMs()
  await host.Publish({ ...create('1', 'a', { tookNanos: '3000000', endedNanosAgo: '2000000' }), more: [create('2', 'b'), ...wild] })
  const afterMs = nowMs()
  t.strictSame(heard.created.map(({ id }) => id), ['a', 'c', 'd'], 'b came without')
  const [a] = heard.created
  t.ok(Math.abs((a?.crun.endMs ?? 0) - (a?.crun.startMs ?? 0) - 3) < 0.01, 'as long as it took')
  t.ok((a?.crun.endMs ?? 0) >= beforeMs - 2 && (a?.crun.endMs ?? 0) <= afterMs - 2, 'so long before the message came')
  for (const { id, crun } of heard.created) t.ok(crun.startMs <= crun.endMs && crun.endMs <= afterMs, `${id}: ${crun.startMs} to ${crun.endMs}`)
  client.close()
})

t.test('only task events pass, each under its own topic', async (t) => {
  const { path, heard } = await listening(t)
  const { host, client } = await linked(path)
  await host.Hello(hello)
  const oom = rpc.any.pack('containerd.events.TaskOOM', { containerId: 'c' })
  await host.Publish({ sequence: '1', topic: '/tasks/oom', event: oom })
  const exit = rpc.any.pack('containerd.events.TaskExit', { containerId: 'c', id: 'e', pid: 1 })
  for (const [topic, event] of [
    ['/images/delete', oom],
    ['/tasks/exit', oom],
    ['/tasks/oom', exit],
    ['/tasks/oom', { type_url: oom.type_url, value: Buffer.from('ffffffff', 'hex') }],
    ['/tasks/oom', { type_url: oom.type_url, value: Buffer.alloc(0) }],
    ['/tasks/exit', rpc.any.pack('containerd.events.TaskExit', { containerId: 'c', id: 'e'.repeat(100_000) })],
    ['/tasks/oom', rpc.any.pack('containerd.events.TaskOOM', { containerId: '../c' })],
  ] as const)
    await t.rejects(host.Publish({ sequence: '2', topic, event }), { code: 'INVALID_ARGUMENT' })
  await t.rejects(host.Publish({ sequence: '3', topic: '/tasks/oom' }), { code: 'INVALID_ARGUMENT' })
  t.same(heard.published, ['1 c /tasks/oom containerd.events.TaskOOM'])
  client.close()
})

const numberedOom = (sequence: number, containerId = 'c') => ({ sequence: String(sequence), topic: '/tasks/oom', event: rpc.any.pack('containerd.events.TaskOOM', { containerId }) })

t.test('several events of one call are handed on in order, up to one that is refused', async (t) => {
  const { path, heard } = await listening(t)
  const { host, client } = await linked(path)
  const { eventsPerPublish } = await host.Hello(hello)
  await host.Publish({ ...numberedOom(1), more: [numberedOom(2), numberedOom(3)] })
  await t.rejects(host.Publish({ ...numberedOom(4), more: [numberedOom(5, '../c'), numberedOom(6)] }), { code: 'INVALID_ARGUMENT' })
  t.same(heard.published.map((line) => line.split(' ')[0]), ['1', '2', '3', '4'])
  const many = Array.from({ length: eventsPerPublish }, (_, at) => numberedOom(10 + at))
  await t.rejects(host.Publish({ ...numberedOom(9), more: many }), { code: 'INVALID_ARGUMENT', message: /limit is/ })
  t.equal(heard.published.length, 4)
  await host.Publish({ ...numberedOom(9), more: many.slice(1) })
  t.equal(heard.published.length, 4 + eventsPerPublish)
  client.close()
})

t.test('the newest link wins', async (t) => {
  const { path } = await listening(t)
  const first = await linked(path)
  await first.host.Hello(hello)
  const second = await linked(path)
  await second.host.Hello({ ...hello, resumed: true })
  await first.client.closed
  await t.rejects(first.host.Ready({}), { code: 'UNAVAILABLE' })
  await second.host.Ready({})
  second.client.close()
})

t.test('a guest that takes too much of the sandboxer’s time gets no more of it by a new link', async (t) => {
  let busyMs = 300
  const burn = () => {
    const before = threadCpuMs()
    while (threadCpuMs() - before < busyMs);
  }
  const [greedy, other] = [await listening(t, burn), await listening(t)]
  const first = await linked(greedy.path)
  await first.host.Hello(hello)
  busyMs = 0
  const order: string[] = []
  const second = await linked(greedy.path)
  const late = second.host.Hello(hello).then(() => order.push('its next link'))
  const civil = await linked(other.path)
  await civil.host.Hello(hello).then(() => order.push('another guest'))
  await late
  t.strictSame(order, ['another guest', 'its next link'])
  for (const { client } of [first, second, civil]) client.close()
})

/** By ttrpc's rules: a request has an answer whatever it is, and frames of other types are skipped, for later versions may have them. */
const garbage: Readonly<Record<string, readonly [bytes: Buffer, answer?: { readonly id: number; readonly code: StatusName }]>> = {
  'words of another protocol': [Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  'noise': [Buffer.alloc(64 * 1024, 0xff)],
  'zeros': [Buffer.alloc(1024)],
  'a frame of no type': [frame(1, 77, 0, Buffer.from('x'))],
  'half a header': [Buffer.from([0, 0])],
  'half a request': [frame(1, 1, 0, Buffer.from('half'), 1024)],
  'a request above the limit': [frame(1, 1, 0, Buffer.from('more'), 0xffff_ffff), { id: 1, code: 'RESOURCE_EXHAUSTED' }],
  'a request that is none': [frame(3, 1, 0, Buffer.alloc(64, 0xff)), { id: 3, code: 'INVALID_ARGUMENT' }],
  'a request of an even id': [frame(4, 1, 0), { id: 4, code: 'INVALID_ARGUMENT' }],
}

for (const [what, [bytes, answer]] of Object.entries(garbage)) {
  t.test(`garbage costs its own connection and nothing else: ${what}`, async (t) => {
    const { path } = await listening(t)
    const peer = new RawPeer(await dial(path))
    t.teardown(() => peer.socket.destroy())
    peer.send(bytes)
    if (answer !== undefined) {
      const { id, code } = await peer.response()
      t.strictSame([id, code], [answer.id, statusCodes[answer.code]], 'it is refused')
    }
    // Both ends are of this process, whose loop has read it after some turns.
    for (let turn = 0; turn < 10; turn++) await nextTurn()
    const { host, client } = await linked(path)
    t.match(await host.Hello(hello), { sandboxId: 's' }, 'the next link is served')
    await peer.end()
    t.strictSame(peer.frames, [], 'which the sandboxer closed the other for, without another word')
    await host.Ready({})
    client.close()
  })
}

t.test('its log passes at a rate that leaves room for others', async (t) => {
  const records: LogRecord[] = []
  let suppressed = 0
  const log = new GuestLog(createLog((record) => records.push(record), () => 'trace'), () => void suppressed++)
  const line = { realtimeNanos: '9223372036854775807', level: 'shout', message: 'm'.repeat(10_000), fields: `{"a":"${'f'.repeat(10_000)}"}` }
  log.write(Array.from({ length: 20_000 }, () => line), '3')
  log.close()
  t.ok(records.length < 1200, `${records.length} of 20000 records`)
  t.ok(suppressed > 18_800, `${suppressed} of them were told to be suppressed`)
  t.match(records[0], { level: 'warn', fields: { guest: true, dropped: '3' } })
  t.match(records[1], { level: 'info', fields: { guest: true } })
  t.equal(records[1]?.message.length, 2048)
  t.match(records[1]?.fields['guestFields'], /^\{"a":"f+…$/, 'fields that are too long are cut, and text')
  t.match(records.at(-1), { level: 'warn', message: /suppressed/, fields: { suppressed: Number } })
  const once = () => log.write([{ ...line, level: 'error', message: 'later' }], '0')
  await poll(10_000, async () => (once(), records.find(({ message }) => message === 'later')))
  t.ok(records.some(({ message }) => message === 'later'), 'and goes on with time')
  const soFar = records.length
  for (let call = 0; call < 20_000; call++) log.write([], '7')
  t.ok(records.length - soFar < 1200, `${records.length - soFar} lines of 20000 confessions`)
  log.write([{ ...line, level: 'error', fields: '{"k":1}', message: 'x' }, { ...line, fields: 'not json' }], '0')
})

t.test('what a guest logs beside a message is kept apart from our own', async (t) => {
  const records: LogRecord[] = []
  const log = new GuestLog(createLog((record) => records.push(record), () => 'trace'))
  for (const fields of ['{"sandbox":"other","n":1}', 'no JSON', '']) log.write([{ realtimeNanos: '1000000', level: 'error', message: 'm', fields }], '0')
  t.strictSame(records.map(({ level, fields }) => [level, fields['guestFields']]), [['error', { sandbox: 'other', n: 1 }], ['error', 'no JSON'], ['error', undefined]])
  t.match(records[0]?.fields, { guest: true, guestTime: '1970-01-01T00:00:00.001Z', sandbox: undefined })
})
