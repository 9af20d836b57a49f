import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { RuntimeError } from '../errors.ts'
import type { CallContext, Handlers } from '../ttrpc/method.ts'
import type { CallReport } from '../ttrpc/options.ts'
import { connectGrpc, type GrpcConnectOptions } from './grpc-client.ts'
import { grpcHandlers, serveGrpc, type GrpcService } from './grpc-server.ts'
import { detailsLengthMax } from './grpc-status.ts'
import { loadProtos } from './load.ts'
import { loadServices, type ServiceTypesOf } from './services.ts'

const rpc = loadServices(loadProtos())

/** Serves until the test ends. */
async function serve(t: Test, services: GrpcService[], options?: GrpcConnectOptions) {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-grpc-'))
  const socketPath = join(directory, 'socket')
  const server = await serveGrpc(socketPath, services)
  const connection = connectGrpc(socketPath, options)
  t.teardown(async () => {
    connection.close()
    await server[Symbol.asyncDispose]()
    rmSync(directory, { recursive: true, force: true })
  })
  return { connection, socketPath, server }
}

const controller = (handlers: Handlers<ServiceTypesOf<'controller'>>) => [grpcHandlers(rpc.controller, handlers)]
const events = (handlers: Handlers<ServiceTypesOf<'events'>>) => [grpcHandlers(rpc.events, handlers)]

t.test('a unary call carries messages, headers and a deadline', async (t) => {
  const seen: CallContext[] = []
  const services = controller({
    Status: (request, context) => {
      seen.push(context)
      return { sandboxId: request.sandboxId, state: 'SANDBOX_READY', createdAt: { seconds: '17', nanos: 5 } }
    },
  })
  const { connection, socketPath } = await serve(t, services, { namespace: 'k8s.io' })
  t.equal(statSync(socketPath).mode & 0o777, 0o600)
  const calls = connection.calls(rpc.controller)
  const answer = await calls.Status({ sandboxId: 's' }, { timeoutMs: 60_000, metadata: { trace: ['a'] } })
  t.match(answer, { sandboxId: 's', state: 'SANDBOX_READY', pid: 0, createdAt: { seconds: '17', nanos: 5 } })
  const [context] = seen
  t.match(context?.metadata, { 'containerd-namespace': ['k8s.io'], trace: ['a'] })
  t.ok(context?.deadlineMs !== undefined && context.deadlineMs > Date.now())
  await new Promise((resolve) => {
    if (context?.signal.aborted === true) resolve(undefined)
    else context?.signal.addEventListener('abort', resolve)
  })
})

t.test('errors keep their code, and the text of their causes', async (t) => {
  const cause = new Error('no such file')
  const { connection } = await serve(
    t,
    controller({
      Create: () => {
        throw new RuntimeError('ALREADY_EXISTS', 'sandbox "s" exists; remove it first', { cause })
      },
      Start: () => Promise.reject(new TypeError('bug')),
      // Half a surrogate pair, and longer than a header may be.
      Stop: () => Promise.reject(new RuntimeError('FAILED_PRECONDITION', `${'x'.repeat(detailsLengthMax - 1)}😀\n%`)),
    }),
  )
  const calls = connection.calls(rpc.controller)
  await t.rejects(calls.Create({}), {
    code: 'ALREADY_EXISTS',
    message: 'containerd.services.sandbox.v1.Controller/Create: sandbox "s" exists; remove it first: no such file',
  })
  await t.rejects(calls.Start({}), { code: 'INTERNAL', message: /bug/ })
  await t.rejects(calls.Stop({}), { code: 'FAILED_PRECONDITION', message: /x\uFFFD$/ })
  await t.rejects(calls.Shutdown({}), { code: 'UNIMPLEMENTED' })
})

t.test('a service’s owner is told of every call when it is over', async (t) => {
  const reports: CallReport[] = []
  const over = Promise.withResolvers<void>()
  const services = [
    grpcHandlers(
      rpc.controller,
      {
        Status: ({ sandboxId }) => ({ sandboxId }),
        Create: () => {
          throw new RuntimeError('ALREADY_EXISTS', 'it exists', { cause: new Error('below') })
        },
        Start: () => Promise.reject(new TypeError('bug')),
        Wait: () => new Promise(() => {}),
      },
      (report) => {
        reports.push(report)
        if (reports.length === 4) over.resolve()
      },
    ),
  ]
  const { connection } = await serve(t, services)
  const calls = connection.calls(rpc.controller)
  await calls.Status({ sandboxId: 's' })
  await t.rejects(calls.Create({}))
  await t.rejects(calls.Start({}))
  await t.rejects(calls.Shutdown({}), { code: 'UNIMPLEMENTED' })
  await t.rejects(calls.Wait({}, { timeoutMs: 50 }))
  await over.promise
  t.match(reports, [
    { path: '/containerd.services.sandbox.v1.Controller/Status', kind: 'unary', code: 'OK', message: '' },
    { path: /Create$/, code: 'ALREADY_EXISTS', message: 'it exists: below' },
    { path: /Start$/, code: 'INTERNAL', message: 'bug' },
    { path: /Wait$/, code: /DEADLINE_EXCEEDED|CANCELLED/ },
  ])
  t.equal(reports.length, 4, 'each once; what has no handler is none')
  t.ok(reports.every(({ durationMs }) => durationMs >= 0))
})

t.test('an abort or a deadline ends the call on both sides', async (t) => {
  const started = new Map<string, () => void>()
  const ended: string[] = []
  const { connection } = await serve(
    t,
    controller({
      Wait: (request, { signal }) => {
        const over = new Promise<never>((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            ended.push(request.sandboxId)
            reject(signal.reason)
          })
        })
        started.get(request.sandboxId)?.()
        return over
      },
    }),
  )
  const calls = connection.calls(rpc.controller)
  const abort = new AbortController()
  started.set('aborted', () => abort.abort())
  await t.rejects(calls.Wait({ sandboxId: 'aborted' }, { signal: abort.signal }), { code: 'CANCELLED' })
  await t.rejects(calls.Wait({ sandboxId: 'late' }, { timeoutMs: 50 }), { code: 'DEADLINE_EXCEEDED' })
  await t.rejects(calls.Wait({ sandboxId: 'never' }, { signal: abort.signal }), { code: 'CANCELLED' })
  await t.rejects(calls.Wait({ sandboxId: 'timeout' }, { signal: AbortSignal.timeout(50) }), { code: 'DEADLINE_EXCEEDED' })
  while (ended.length < 3) await new Promise((resolve) => setImmediate(resolve))
  t.same(ended.sort(), ['aborted', 'late', 'timeout'])
})

t.test('a server stream arrives in order, ends, fails, and stops when its reader does', async (t) => {
  let pulled = 0
  let stopped = Promise.withResolvers<void>()
  const { connection } = await serve(
    t,
    events({
      async *Subscribe({ filters }, { signal }) {
        try {
          for (; pulled < 3 || filters.includes('endless'); pulled++) {
            signal.throwIfAborted()
            yield { topic: `/tasks/${pulled}`, namespace: 'x'.repeat(filters.includes('endless') ? 65_536 : 1) }
          }
          if (filters.includes('fail')) throw new RuntimeError('UNAVAILABLE', 'going away')
        } finally {
          stopped.resolve()
        }
      },
    }),
  )
  const { Subscribe } = connection.calls(rpc.events)
  const topics: string[] = []
  for await (const envelope of Subscribe({})) topics.push(envelope.topic)
  t.same(topics, ['/tasks/0', '/tasks/1', '/tasks/2'])

  pulled = 0
  const failing = Subscribe({ filters: ['fail'] })
  // The stream is over before the first read; its failure must not be lost.
  await new Promise((resolve) => setTimeout(resolve, 50))
  await t.rejects(Array.fromAsync(failing), { code: 'UNAVAILABLE', message: /Events\/Subscribe: going away/ })

  pulled = 0
  stopped = Promise.withResolvers<void>()
  for await (const envelope of Subscribe({ filters: ['endless'] })) if (envelope.topic === '/tasks/5') break
  await stopped.promise
  t.ok(pulled < 1000, 'flow control holds the sender back')

  const abort = new AbortController()
  const read = async () => {
    for await (const envelope of Subscribe({ filters: ['endless'] }, { signal: abort.signal })) if (envelope) abort.abort()
  }
  await t.rejects(read(), { code: 'CANCELLED' })
})

t.test('a socket left by a dead process is taken over, one in use is not', async (t) => {
  const { socketPath } = await serve(t, [])
  await t.rejects(serveGrpc(socketPath, []), { code: 'ALREADY_EXISTS' })
  const stale = `${socketPath}.stale`
  const owner = spawnSync(process.execPath, [
    '-e',
    `require('node:net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`,
  ])
  t.equal(owner.signal, 'SIGKILL')
  t.ok(statSync(stale).isSocket())
  await using server = await serveGrpc(stale, [])
  t.ok(server)
})

t.test('nobody listens: UNAVAILABLE at once; a new server on the same path is found again', async (t) => {
  const waiting = Promise.withResolvers<void>()
  const services = controller({
    Platform: () => ({ platform: { os: 'linux', architecture: 'amd64' } }),
    Wait: (_request, { signal }) => {
      waiting.resolve()
      return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    },
  })
  const { connection, socketPath, server } = await serve(t, services)
  const calls = connection.calls(rpc.controller)
  t.match(await calls.Platform({}), { platform: { os: 'linux' } })
  const refused = t.rejects(calls.Wait({}), { code: 'UNAVAILABLE' }, 'containerd asks again')
  await waiting.promise
  await server[Symbol.asyncDispose]()
  await refused
  await t.rejects(calls.Platform({}), { code: 'UNAVAILABLE' })
  await using again = await serveGrpc(socketPath, services)
  t.ok(again)
  for (;;) {
    try {
      t.match(await calls.Platform({}), { platform: { architecture: 'amd64' } })
      return
    } catch (error) {
      if (!(error instanceof RuntimeError && error.code === 'UNAVAILABLE')) throw error
    }
  }
})
