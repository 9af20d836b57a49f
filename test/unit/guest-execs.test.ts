/** An exec added while its container ends. */
import t from 'tap'
import { execInput, execOutput } from '#guest/config.ts'
import { type Container, endExecs } from '#guest/container/container.ts'
import { addExec } from '#guest/container/execs.ts'
import { ProcessIo } from '#guest/container/io.ts'
import { Process } from '#guest/container/process.ts'
import { Cgroup } from '#guest/runtime/cgroup.ts'
import { StreamRegistry } from '#guest/streams/registry.ts'
import type { Terminals } from '#shared/os/contract.ts'
import { createFakeOs } from '#shared/os/fake.ts'

t.test('an exec whose container ends while its terminal is made is refused, and leaves nothing', async (t) => {
  await using os = createFakeOs()
  const [asked, listening] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  let open = 0
  const terminals: Terminals = {
    listenConsole: async () => {
      asked.resolve()
      await listening.promise
      open++
      return { receive: async () => -1, [Symbol.asyncDispose]: async () => void open-- }
    },
    resize: () => {},
  }
  const context = {
    io: { os: { ...os, terminals }, streams: new StreamRegistry(), consoleDir: '/nowhere' },
    execPolicy: { output: execOutput, input: execInput },
    events: { publish: async () => {} },
  }
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  const plan = { stdin: undefined, stdout: undefined, stderr: undefined, terminal: false }
  const io = await ProcessIo.open(plan, context.io, context.execPolicy)
  const init = new Process('container c', stdio, io, { pid: 7, seenNanos: 0n }, { exited: async () => {}, stopped: () => {} })
  init.running()
  const container: Container = {
    id: 'c', bundle: '/b', dir: '/nowhere', oomScoreAdj: 0, init, cgroup: new Cgroup('/nowhere'),
    execs: new Map(), execsUnderWay: new Set(), undo: new AsyncDisposableStack(),
  }

  const spec = Buffer.from('{"cwd":"/","args":["true"]}')
  const adding = addExec(context, container, { id: 'e', stdio: { ...stdio, terminal: true }, spec })
  await asked.promise
  const exit = { status: 3, atNanos: 5n }
  init.end(exit)
  endExecs(container, exit)
  await init.stopped
  listening.resolve()

  await t.rejects(adding, { code: 'FAILED_PRECONDITION' })
  t.strictSame([container.execs.size, container.execsUnderWay.size, open], [0, 0, 0])
  await io.discard()
})
