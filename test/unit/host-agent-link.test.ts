/** Many callers share one connection to their guest's agent, and none waits by another's patience. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AgentLink } from '#host/link/agent.ts'
import { RuntimeError } from '#shared/errors.ts'
import { LOG_MESSAGE_LENGTH_MAX } from '#shared/link-limits.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'
import { threadCpuMs } from '#shared/ttrpc/time-share.ts'
import { frame } from '../support/ttrpc-raw.ts'

const rpc = loadServices(loadProtos())
/** A million frames of nobody's calls, so often that they take several times what a share has saved up. */
const noise = Buffer.alloc(1_000_000 * frame(99, 3, 0).length, frame(99, 3, 0))
const NOISE_TIMES = 16

const Purge = () => {
  throw new RuntimeError('INTERNAL', 'x'.repeat(200_000))
}

const forever = new AbortController().signal

/** An agent that is reached when the test says so, and may say something before it serves. */
async function guest(t: Test, firstWords: readonly Buffer[] = []) {
  const dir = await mkdtemp('/tmp/agent-')
  const path = join(dir, 'agent.sock')
  const server = new TtrpcServer().add(rpc.agent, { Ping: () => ({}), Shutdown: () => ({}), Purge })
  const listener = createServer((socket) => {
    for (const words of firstWords) socket.write(words)
    server.accept(socket)
  }).listen(path)
  await once(listener, 'listening')
  const { promise: up, resolve: reach } = Promise.withResolvers<void>()
  let dials = 0
  const dial = async (_: number, signal: AbortSignal): Promise<Socket> => {
    dials++
    await new Promise((resolve, reject) => {
      void up.then(resolve)
      signal.addEventListener('abort', () => reject(signal.reason))
    })
    const socket = connect(path)
    await once(socket, 'connect')
    return socket
  }
  const link = new AgentLink(dial, rpc, 'unit')
  t.teardown(async () => {
    link.close()
    listener.close()
    await rm(dir, { recursive: true })
  })
  return { link, reach, dials: () => dials }
}

t.test('who asked first gives up: the others are answered all the same', async (t) => {
  const { link, reach, dials } = await guest(t)
  const impatient = new AbortController()
  const first = link.ping(impatient.signal)
  const second = link.shutdown(0, forever)
  impatient.abort(new RuntimeError('DEADLINE_EXCEEDED', 'too late'))
  await t.rejects(first, { code: 'DEADLINE_EXCEEDED' })
  reach()
  await second
  t.equal(dials(), 1)
})

t.test('who asked later waits no longer than it will', async (t) => {
  const { link } = await guest(t)
  const impatient = new AbortController()
  const first = link.ping(forever)
  const second = link.ping(impatient.signal)
  impatient.abort(new RuntimeError('DEADLINE_EXCEEDED', 'too late'))
  await t.rejects(second, { code: 'DEADLINE_EXCEEDED' })
  link.close()
  await t.rejects(first, { code: 'CANCELLED' }, 'a link that is closed answers whoever waits')
})

t.test('a guest that talks without end takes a share of the sandboxer’s time and no more', async (t) => {
  const { link, reach } = await guest(t, Array.from({ length: NOISE_TIMES }, () => noise))
  reach()
  const [startMs, startCpuMs] = [performance.now(), threadCpuMs()]
  await link.ping(forever)
  const [tookMs, cpuMs] = [performance.now() - startMs, threadCpuMs() - startCpuMs]
  t.comment(`${Math.round(cpuMs)} ms of a processor in ${Math.round(tookMs)} ms`)
  t.ok(cpuMs < tookMs * 0.7, 'most of the time it was not read')
})

t.test('what a guest says of a failure is cut', async (t) => {
  const { link, reach } = await guest(t)
  reach()
  await t.rejects(link.purge('c', forever), { code: 'INTERNAL', message: `${'x'.repeat(LOG_MESSAGE_LENGTH_MAX)}…` })
})
