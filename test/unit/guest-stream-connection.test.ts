/** Streams on connections that end: by the peer, by the agent, or by nobody. */
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { initOutput } from '#guest/config.ts'
import { serveConnection } from '#guest/services/connection.ts'
import { withEncodedData } from '#guest/services/encoded-data.ts'
import { StreamConnection } from '#guest/services/stream-connection.ts'
import { Output } from '#guest/streams/output.ts'
import { StreamRegistry } from '#guest/streams/registry.ts'
import { WINDOW_BYTES } from '#guest/streams/window.ts'
import { silentLog } from '#shared/log.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import { frameFlag, frameType } from '#shared/ttrpc/frame.ts'
import { settled } from '#test/support/settled.ts'
import { rpc } from '#test/support/task-client.ts'
import { frame, socketPair } from '#test/support/ttrpc-raw.ts'

t.test('the peer has closed its side when a frame of data says so, and not before', async (t) => {
  using pair = await socketPair()
  const connection = new StreamConnection(pair.a)
  const calls: number[] = []
  connection.whenPeerClosed(() => calls.push(calls.length))
  pair.b.write(Buffer.concat([frame(1, frameType.request, frameFlag.remoteClosed), frame(1, frameType.data, frameFlag.noData), frame(1, frameType.data, 0, Buffer.alloc(100_000))]))
  await sleep(20)
  t.strictSame(calls, [])
  for (const byte of frame(1, frameType.data, frameFlag.remoteClosed | frameFlag.noData)) pair.b.write(Buffer.of(byte))
  pair.b.write(frame(1, frameType.data, frameFlag.remoteClosed))
  while (calls.length === 0) await sleep(1)
  connection.whenPeerClosed(() => calls.push(calls.length))
  t.equal(calls.length, 2, 'once for each who asked')
  connection.take()
  t.throws(() => connection.take(), { code: 'FAILED_PRECONDITION' })
})

t.test('a connection ends when both sides of its stream are closed, or when its time is over', async (t) => {
  using both = await socketPair()
  const connection = new StreamConnection(both.a)
  const ours = new AbortController()
  connection.endWhenClosed(ours.signal)
  both.b.write(frame(1, frameType.data, frameFlag.remoteClosed | frameFlag.noData))
  await sleep(20)
  t.notOk(both.a.destroyed, 'ours is open')
  ours.abort()
  await once(both.a, 'close')

  using late = await socketPair()
  const lingering = new StreamConnection(late.a)
  let over = 0
  lingering.whenOver(() => over++)
  lingering.endAfter(10)
  await once(late.a, 'close')
  lingering.whenOver(() => over++)
  t.equal(over, 2, 'told then, and to those who ask afterwards')
})

t.test('an output whose reader has gone with its connection waits for the next', async (t) => {
  using pair = await socketPair()
  const registry = new StreamRegistry()
  serveConnection(pair.a, {
    rpc, streams: registry, served: [], streaming: withEncodedData(rpc.streaming), writeBytesMax: Number.POSITIVE_INFINITY, logsCalls: () => false, log: silentLog,
  })
  const source = new PassThrough()
  const output = new Output(source, { ...initOutput, stalledMs: 10 })
  using _ = registry.bind('c-stdout', { kind: 'output', output })
  const client = new TtrpcClient(pair.b)
  async function* requests() {
    yield rpc.any.pack('containerd.services.streaming.v1.StreamInit', { id: 'c-stdout' })
    yield rpc.any.pack('containerd.types.transfer.WindowUpdate', { update: WINDOW_BYTES })
    await client.closed
  }
  const answers = client.calls(rpc.streaming).Stream(requests())[Symbol.asyncIterator]()
  await answers.next()
  source.end('last words')
  await answers.next()
  client.close()
  await once(pair.a, 'close')
  output.processExited()
  await sleep(100)
  t.equal(await settled(output.delivered), false, 'a reader that is gone is no reader that makes no progress')
  const next = output.attach(new AbortController().signal)
  next.grant(WINDOW_BYTES)
  t.equal((await next.next())?.toString(), 'last words')
  output.discard()
})
