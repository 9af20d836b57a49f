/** Many callers share one connection to their guest's agent, and none waits by another's patience. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AgentLink } from '#host/link/agent.ts'
import { RuntimeError } from '#shared/errors.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'

const rpc = loadServices(loadProtos())
const forever = new AbortController().signal

/** An agent that is reached when the test says so. */
async function guest(t: Test) {
  const dir = await mkdtemp('/tmp/agent-')
  const path = join(dir, 'agent.sock')
  const server = new TtrpcServer().add(rpc.agent, { Ping: () => ({}), Shutdown: () => ({}) })
  const listener = createServer((socket) => server.accept(socket)).listen(path)
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
