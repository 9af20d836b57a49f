/**
 * An agent that means harm: says Hello and Ready as every agent does, then asks for what is not its own, breaks the
 * protocol in every way, floods its sandboxer, and answers whoever calls it with noise. The pod's first DNS search name
 * is another sandbox's container. What came of each attack is a line "attack NAME: …" on the console; the other half is
 * test/integration/hostile.test.ts.
 */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { startupSnapshot } from 'node:v8'
import { loadGuestRpc } from '#guest/rpc.ts'
import { PROTOCOL_VERSION } from '#guest/version.ts'
import { RuntimeError, explain, statusName } from '#shared/errors.ts'
import { LINK_PORT } from '#shared/link-port.ts'
import { CID_HOST, VSOCK_WRITE_BYTES_MAX } from '#shared/os/contract.ts'
import { createNativeOs } from '#shared/os/native.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import { decodeResponse, encodeMethod, encodeMetadata, requestSize, writeRequest } from '#shared/ttrpc/envelope.ts'
import { FrameParser, frameHeaderBytes, frameType, writeFrameHeader } from '#shared/ttrpc/frame.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'
import { random } from './random.ts'

const AGENT_PORT = 1024

/** How long each flood lasts, and how long an answer or the end of a connection is awaited. */
const FLOOD_MS = 5000
const CLOSE_MS_MAX = 20_000

/** More than any error takes. */
const ANSWER_BYTES_MAX = 64 * 1024

const os = createNativeOs()
const rpc = loadGuestRpc()

const boottime = () => String(os.processes.bootTimeNanos())

/** The sandboxer's listener rests when it was dialled too often. */
async function connected(): Promise<Socket> {
  for (;;) {
    try {
      return await os.vsock.connect({ cid: CID_HOST, port: LINK_PORT })
    } catch {
      await sleep(100)
    }
  }
}

async function dial() {
  const socket = await connected()
  const client = new TtrpcClient(socket, { writeBytesMax: VSOCK_WRITE_BYTES_MAX })
  return { client, calls: client.calls(rpc.host) }
}

const hello = (resumed: boolean) => ({
  protocolVersion: PROTOCOL_VERSION,
  agentVersion: 'a'.repeat(50_000),
  kernelVersion: 'k\n\u001b[31m'.repeat(5000),
  resumed,
  boot: Array.from({ length: 2000 }, (_, index) => ({ name: `mark-${index}`, boottimeNanos: '18446744073709551615' })),
  boottimeNanos: '18446744073709551615',
})

/** A connection of which only its socket is known. */
async function raw(): Promise<Socket> {
  const socket = await connected()
  socket.on('error', () => {})
  return socket
}

/** Writes as fast as the other side takes it, over and over, in pieces that a vsock carries whole; until `ms` or its end. */
async function pour(socket: Socket, bytes: Buffer, ms: number): Promise<number> {
  const endMs = performance.now() + ms
  let written = 0
  while (performance.now() < endMs && !socket.destroyed) {
    for (const piece of pieces(bytes)) {
      if (performance.now() >= endMs || socket.destroyed) break
      written += piece.length
      if (!socket.write(piece)) await Promise.race([once(socket, 'drain').catch(() => {}), once(socket, 'close'), sleep(ms)])
    }
  }
  return written
}

function pieces(bytes: Buffer): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / VSOCK_WRITE_BYTES_MAX) }, (_, index) =>
    bytes.subarray(index * VSOCK_WRITE_BYTES_MAX, (index + 1) * VSOCK_WRITE_BYTES_MAX),
  )
}

async function ended(socket: Socket): Promise<string> {
  socket.resume()
  if (socket.destroyed) return 'closed'
  return await Promise.race([once(socket, 'close').then(() => 'closed'), sleep(CLOSE_MS_MAX, 'still open')])
}

/** What becomes of a connection that holds what is no call: the next one is served, and takes its place. */
async function superseded(socket: Socket): Promise<string> {
  socket.resume()
  const before = socket.destroyed ? 'closed' : 'open'
  const { client, calls } = await dial()
  const answer = await code(calls.Hello({ ...hello(true), boot: [] }))
  const after = await ended(socket)
  client.close()
  return `${before}, the next Hello ${answer}, then ${after}`
}

/** The answer to what was sent as call `id`: the code of its error. */
async function answered(socket: Socket, id: number): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>()
  const parser = new FrameParser(
    {
      frame(of, type, _flags, bytes, start, end) {
        if (type !== frameType.response || of !== id) return resolve(`a frame of type ${type} for ${of}`)
        resolve(statusName(decodeResponse(bytes, start, end).status?.code ?? 0))
      },
      oversize: (of) => resolve(`too much for ${of}`),
    },
    ANSWER_BYTES_MAX,
  )
  socket.on('data', (chunk: Buffer) => parser.push(chunk))
  return await Promise.race([promise, once(socket, 'close').then(() => 'closed'), sleep(CLOSE_MS_MAX, 'no answer')])
}

function frame(type: number, id: number, body: Buffer, claimedBytes = body.length): Buffer {
  const header = Buffer.alloc(frameHeaderBytes)
  writeFrameHeader(header, 0, claimedBytes, id, type, 0)
  return Buffer.concat([header, body])
}

/** A request's frame, over and over, each with an id of its own. */
function requests(method: 'Log' | 'Hello' | 'Prepare', payload: Buffer, count: number): Buffer {
  const name = encodeMethod('kuasar.host.v1.Host', method)
  const metadata = encodeMetadata(undefined)
  const body = Buffer.alloc(requestSize(name, payload, 0, metadata))
  writeRequest(body, 0, name, payload, 0, metadata)
  return Buffer.concat(Array.from({ length: count }, (_, index) => frame(frameType.request, 2 * index + 1, body)))
}

async function code(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'was done'
  } catch (error) {
    return error instanceof RuntimeError ? error.code : explain(error)
  }
}

async function attack(name: string, run: () => Promise<string | number>): Promise<void> {
  const outcome = await run().catch((error: unknown) => `failed: ${explain(error)}`)
  console.log(`attack ${name}: ${outcome}`)
}

/** The end of a container that did not end. */
const event = (containerId: string) =>
  rpc.any.pack('containerd.events.TaskExit', { containerId, id: containerId, pid: 1, exitStatus: 9 })

async function main(): Promise<void> {
  const { client, calls } = await dial()
  const { dns } = await calls.Hello(hello(false))
  const foreign = dns?.searches[0] ?? ''
  let civil = true
  await os.vsock.listen(AGENT_PORT, (socket) => {
    socket.on('error', () => {})
    if (civil) new TtrpcServer({ writeBytesMax: VSOCK_WRITE_BYTES_MAX }).add(rpc.agent, lies(foreign)).accept(socket)
    else void pour(socket, noise(), FLOOD_MS).then(() => socket.destroy())
  })
  await calls.Ready({ boot: [], boottimeNanos: boottime() })

  const publish = (topic: string, any: ReturnType<typeof event>, sequence = '1') => code(calls.Publish({ sequence, topic, event: any }))
  const foreignExit = { sequence: '1', topic: '/tasks/exit', event: event(foreign) }
  await attack('prepare unknown', () => code(calls.Prepare({ containerId: 'nobody' })))
  await attack('prepare foreign', () => code(calls.Prepare({ containerId: foreign })))
  await attack('prepare path', () => code(calls.Prepare({ containerId: '../../../etc' })))
  await attack('release foreign', () => code(calls.Release({ containerId: foreign })))
  await attack('publish foreign', () => publish('/tasks/exit', event(foreign)))
  await attack('publish topic', () => publish('/containers/delete', event(foreign)))
  await attack('publish more', () => code(calls.Publish({ ...foreignExit, more: [foreignExit] })))
  await attack('publish many', () => code(calls.Publish({ more: Array.from({ length: 10_000 }, () => ({})) })))
  await attack('publish large', () => publish('/tasks/exit', event('x'.repeat(1024 * 1024)), '18446744073709551615'))
  client.close()

  await attack('no hello', async () => {
    const { client: rude, calls: early } = await dial()
    const answer = await code(early.Prepare({ containerId: foreign }))
    rude.close()
    return answer
  })
  await attack('unspoken version', async () => {
    const { client: other, calls: theirs } = await dial()
    const answer = await code(theirs.Hello({ ...hello(true), protocolVersion: 0 }))
    other.close()
    return answer
  })
  await attack('garbage', async () => {
    const socket = await raw()
    await pour(socket, noise(), FLOOD_MS)
    return await superseded(socket)
  })
  await attack('frame type', async () => {
    const socket = await raw()
    socket.write(frame(77, 1, Buffer.from('x')))
    return await superseded(socket)
  })
  await attack('half a frame, a hundred times', async () => {
    const sockets: Socket[] = []
    const open = () => sockets.filter((socket) => !socket.destroyed).length
    // Fewer at a time than make the listener rest: it drops whom it has not accepted, and that end here never hears of it. So
    // the next come when those before have been accepted, each of which ended the one before it.
    while (sockets.length < 100) {
      await sleep(1100)
      sockets.push(...(await Promise.all(Array.from({ length: 20 }, raw))))
      for (const endMs = performance.now() + CLOSE_MS_MAX; open() > 1 && performance.now() < endMs; ) await sleep(50)
    }
    for (const socket of sockets) socket.write(frame(frameType.request, 1, Buffer.from('half'), 1024 * 1024))
    await sleep(500)
    const left = open()
    for (const socket of sockets) socket.destroy()
    return `${left <= 1 ? 'one' : left} open`
  })
  await attack('dials without end', async () => {
    let refused = 0
    for (const endMs = performance.now() + FLOOD_MS; performance.now() < endMs; ) {
      await os.vsock.connect({ cid: CID_HOST, port: LINK_PORT }).then((socket) => socket.destroy(), () => refused++)
    }
    return refused > 0 ? 'refused' : 'all taken'
  })
  await attack('oversized frames', async () => {
    const socket = await raw()
    const body = Buffer.alloc(1024 * 1024)
    const answer = answered(socket, 1)
    const bytes = await pour(socket, frame(frameType.request, 1, body, 0xffff_fff0), FLOOD_MS)
    const said = await answer
    socket.destroy()
    return `${said}, ${bytes > 0 ? 'sent' : 'not sent'}`
  })
  // Field 5 of no length: the attacker need not hold what it decodes to.
  const emptyMark = Buffer.from([0x2a, 0])
  const hellos = (marks: number) =>
    Buffer.concat([rpc.host.methods.Hello.requestSerialize({ ...hello(true), boot: [] }), Buffer.alloc(2 * marks, emptyMark)])
  await attack('flood of hello', () => flood('Hello', rpc.host.methods.Hello.requestSerialize({ ...hello(true), boot: [] }), 20))
  // Two bytes each, and a hundred when decoded: as many as a message may hold, as fit in one, and as the protocol allows.
  await attack('flood of empty marks', () => flood('Hello', hellos(2000), 20))
  await attack('flood of too many marks', () => flood('Hello', hellos(40_000), 20))
  await attack('flood of enormous hellos', () => flood('Hello', hellos(1_900_000), 1))
  const records = Array.from({ length: 40 }, () => ({ realtimeNanos: '-1', level: 'error', message: 'm'.repeat(5000), fields: '{'.repeat(1000) }))
  await attack('flood of large logs', () => flood('Log', rpc.host.methods.Log.requestSerialize({ records, dropped: '1' }), 20))
  await attack('flood of small logs', () => flood('Log', rpc.host.methods.Log.requestSerialize({ records: [], dropped: '7' }), 5000))
  await attack('flood of prepares', () => flood('Prepare', rpc.host.methods.Prepare.requestSerialize({ containerId: foreign }), 5000))
  civil = false
  console.log('attacks done')
}

/** Alive, and holding what it does not. */
function lies(foreign: string): Handlers<ServiceTypesOf<'agent'>> {
  const ids = [foreign, '..', '../../escape', '', ...Array.from({ length: 1000 }, (_, index) => `task-${index}`)]
  return {
    Ping: () => ({ agentVersion: 'x'.repeat(100_000), boottimeNanos: '18446744073709551615' }),
    Tasks: () => ({ tasks: ids.map((containerId) => ({ containerId, pid: 4_294_967_295, status: 'SHOUTING', execCount: 4_294_967_295 })) }),
    Purge: () => ({}),
    Stats: () => ({ metrics: { type_url: 'no.such.Type', value: noise() }, realtimeNanos: '-9223372036854775808' }),
    SyncClock: () => ({ offsetNanos: '-9223372036854775808' }),
    Shutdown: () => new Promise(() => {}),
  }
}

/** Requests without reading a single answer. */
async function flood(method: 'Log' | 'Hello' | 'Prepare', payload: Buffer, count: number): Promise<string> {
  const { calls, client } = await dial()
  await calls.Hello({ ...hello(true), boot: [] })
  client.close()
  const socket = await raw()
  const greeting = requests('Hello', rpc.host.methods.Hello.requestSerialize({ ...hello(true), boot: [] }), 1)
  // Whole: the rest of one cut short would be taken from what follows, which may read as the Hello of another boot.
  for (const piece of pieces(greeting)) socket.write(piece)
  const bytes = await pour(socket, requests(method, payload, count), FLOOD_MS)
  socket.destroy()
  return bytes > 0 ? 'sent' : 'not sent'
}

function noise(): Buffer {
  const next = random(7)
  const bytes = Buffer.alloc(1024 * 1024)
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(next(), at)
  return bytes
}

// Only in the guest: the bundle is also evaluated where its snapshot is built.
const start = () => void main().catch((error: unknown) => console.log('the attack failed', error))
if (startupSnapshot.isBuildingSnapshot()) startupSnapshot.setDeserializeMainFunction(start)
else if (process.ppid === 1) start()
