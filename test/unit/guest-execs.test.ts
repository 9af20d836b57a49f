/** Execs that never run: added while their container ends, or deleted before their start. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { execInput, execOutput } from '#guest/config.ts'
import { type Container, endExecs } from '#guest/container/container.ts'
import { addExec, deleteExec } from '#guest/container/execs.ts'
import { fullOr } from '#guest/container/full.ts'
import { ProcessIo } from '#guest/container/io.ts'
import { Process } from '#guest/container/process.ts'
import { Cgroup } from '#guest/runtime/cgroup.ts'
import { StreamRegistry } from '#guest/streams/registry.ts'
import { RuntimeError } from '#shared/errors.ts'
import type { Terminals } from '#shared/os/contract.ts'
import { createFakeOs } from '#shared/os/fake.ts'

const spec = Buffer.from('{"cwd":"/","args":["true"]}')
const nothing = { stdin: '', stdout: '', stderr: '', terminal: false }

/** A container that runs, and what its execs are made with. Terminals come when `listening` resolves, and none is ever sent. */
async function running(listening: Promise<void>) {
  const os = createFakeOs()
  const consoles = { open: 0 }
  const asked = Promise.withResolvers<void>()
  const terminals: Terminals = {
    listenConsole: async () => {
      asked.resolve()
      await listening
      consoles.open++
      return { receive: async () => -1, [Symbol.asyncDispose]: async () => void consoles.open-- }
    },
    resize: () => {},
  }
  const streams = new StreamRegistry()
  const context = {
    io: { os: { ...os, terminals }, streams, consoleDir: '/nowhere' },
    execPolicy: { output: execOutput, input: execInput },
    events: { publish: async () => {} },
  }
  const io = await ProcessIo.open({ stdin: undefined, stdout: undefined, stderr: undefined, terminal: false }, context.io, context.execPolicy)
  const init = new Process('container c', nothing, io, { pid: 7, seenNanos: 0n }, { exited: async () => {}, stopped: () => {} })
  init.running()
  const container: Container = {
    id: 'c', bundle: '/b', dir: '/nowhere', oomScoreAdj: 0, init, cgroup: new Cgroup('/nowhere'),
    execs: new Map(), execsUnderWay: new Set(), undo: new AsyncDisposableStack(),
  }
  return {
    container, context, streams, consoles, asked: asked.promise,
    async [Symbol.asyncDispose]() {
      await io.discard()
      await os[Symbol.asyncDispose]()
    },
  }
}

t.test('an exec whose container ends while its terminal is made is refused, and leaves nothing', async (t) => {
  const listening = Promise.withResolvers<void>()
  await using world = await running(listening.promise)
  const { container, context, consoles } = world
  const adding = addExec(context, container, { id: 'e', stdio: { ...nothing, terminal: true }, spec })
  await world.asked
  await t.rejects(addExec(context, container, { id: 'e', stdio: nothing, spec }), { code: 'ALREADY_EXISTS' }, 'its id is taken from the start')
  const exit = { status: 3, atNanos: 5n }
  container.init.end(exit)
  endExecs(container, exit)
  await container.init.stopped
  listening.resolve()

  await t.rejects(adding, { code: 'FAILED_PRECONDITION' })
  t.strictSame([container.execs.size, container.execsUnderWay.size, consoles.open], [0, 0, 0])
})

t.test('an exec that is deleted before its start lets its streams go', async (t) => {
  await using world = await running(Promise.resolve())
  const { container, context, streams, consoles } = world
  // Another's: it goes on waiting.
  void streams.find('other-stdout', new AbortController().signal)
  for (const terminal of [false, true]) {
    const id = terminal ? 'terminal' : 'pipes'
    const names = terminal ? ['stdin', 'stdout'] : ['stdin', 'stdout', 'stderr']
    const found = names.map((name) => streams.find(`${id}-${name}`, new AbortController().signal))
    const address = (name: string) => (names.includes(name) ? `ttrpc+hvsock:///x:1024?streaming_id=${id}-${name}` : '')
    await addExec(context, container, { id, stdio: { stdin: address('stdin'), stdout: address('stdout'), stderr: address('stderr'), terminal }, spec })
    t.equal(streams.waiting, terminal ? 3 : 1, `${id}: a terminal's wait until there is one`)
    t.match(await deleteExec(container, id), { pid: 0, exit: { status: 255 } })
    for (const endpoint of await Promise.all(found)) {
      if (endpoint.kind === 'output') await endpoint.output.delivered
      else await endpoint.input.discarded
    }
    t.strictSame([streams.waiting, consoles.open], [1, 0], `${id}: all came to their ends`)
  }
})

t.test('a failure of crun\'s for want of processes names the limit, the container\'s own or the pod\'s; another is what it was', (t) => {
  const dir = t.testdir({ c: {} })
  const cgroup = new Cgroup(join(dir, 'c'))
  const write = (own: readonly [number, string], pod: readonly [number, string]) => {
    for (const [at, [count, max]] of [[join(dir, 'c'), own], [dir, pod]] as const) {
      writeFileSync(join(at, 'pids.current'), `${count}\n`)
      writeFileSync(join(at, 'pids.max'), `${max}\n`)
    }
  }
  const failure = new RuntimeError('INTERNAL', 'exec in container c failed: crun: fail startup')
  t.equal(fullOr(failure, cgroup), failure, 'no cgroup any more')
  write([7, 'max'], [62, '64'])
  t.equal(fullOr(failure, cgroup), failure, 'room for two')
  write([7, 'max'], [63, '64'])
  t.match(fullOr(failure, cgroup), { code: 'RESOURCE_EXHAUSTED', message: /^exec in container c failed: crun: fail startup: the pod's containers have 63 of the 64 / })
  write([7, '8'], [63, '64'])
  t.match(fullOr(failure, cgroup), { code: 'RESOURCE_EXHAUSTED', message: /: the container has 7 of the 8 processes and threads it may have/ })
  const ofCommand = new RuntimeError('INVALID_ARGUMENT', 'no such command')
  t.equal(fullOr(ofCommand, cgroup), ofCommand)
  t.end()
})
