/** The life of containers and execs: what is done in which order, what is told, and what is left when a step fails or another call comes between. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { EXECS_MAX } from '#guest/container/container.ts'
import { CONTAINERS_MAX } from '#guest/container/containers.ts'
import { RuntimeError } from '#shared/errors.ts'
import type { Terminals } from '#shared/os/contract.ts'
import { type ContainersWorld, containersWorld, held, noStdio, streams, until } from '#test/support/containers-world.ts'
import { settled } from '#test/support/settled.ts'

const execSpec = Buffer.from('{"cwd":"/","args":["true"]}')
const addExec = (world: ContainersWorld, id: string, exec: string, stdio = noStdio) =>
  world.containers.addExec(world.containers.get(id), { id: exec, stdio, spec: execSpec })

const openFiles = () => readdirSync('/proc/self/fd').length

/** Streams close in a later turn. */
async function openFilesAtMost(t: Test, most: number) {
  for (let turns = 0; turns < 100 && openFiles() > most; turns++) await turn()
  t.ok(openFiles() <= most, `${openFiles()} files are open, expected ${most} at most`)
}

function failing(world: ContainersWorld, step: string, error: Error) {
  world.before = async (name) => {
    if (name === step) throw error
  }
}

async function leavesNothing(t: Test, world: ContainersWorld, dir: string) {
  t.strictSame(world.containers.all(), [])
  t.strictSame(world.os.mounted, [], 'no mount')
  t.strictSame(existsSync(`${dir}/bundles`) ? readdirSync(`${dir}/bundles`) : [], [], 'no bundle')
  world.before = async () => {}
  await world.create('c')
  t.ok(world.containers.get('c'), 'and the id can be used again')
}

const storage = (dir: string) => ({ type: 'tmpfs', source: 'x', target: `${dir}/storages/x`, options: [] })

t.test('a create that fails at any step undoes those before it, the sandboxer last', async (t) => {
  const error = new RuntimeError('RESOURCE_EXHAUSTED', 'no room')
  for (const [step, undone] of [
    ['prepare c', ['prepare c', 'release c']],
    ['create c', ['prepare c', 'create c', 'delete c', 'release c']],
  ] as const) {
    const dir = t.testdir({ [step.replace(' ', '-')]: {} }) + `/${step.replace(' ', '-')}`
    await using world = containersWorld(dir, { storages: [storage(dir)] })
    failing(world, step, error)
    await t.rejects(world.create('c'), { code: 'RESOURCE_EXHAUSTED' })
    t.strictSame(world.steps, undone)
    t.strictSame(world.kinds(), [])
    await leavesNothing(t, world, dir)
  }
})

t.test('an undo that fails keeps none of the others from being done', async (t) => {
  const dir = t.testdir()
  await using world = containersWorld(dir, { storages: [storage(dir)] })
  let mounted = 0
  world.before = async (step) => {
    if (step === 'create c') mounted = world.os.mounted.length
  }
  const container = await world.run('c')
  t.equal(mounted, 1, 'before the container is created')
  world.exit(container.init.state.pid, 0)
  await container.init.stopped
  failing(world, 'delete c', new RuntimeError('INTERNAL', 'crun is stuck'))
  t.match(await world.containers.delete('c'), { exit: { status: 0 } })
  t.strictSame(world.steps.slice(-2), ['delete c', 'release c'])
  await leavesNothing(t, world, dir)
})

t.test('a create or exec that wants a stream which another process has is refused, and leaves no descriptor open', async (t) => {
  await using world = containersWorld(t.testdir())
  const stdio = streams('c')
  const container = await world.create('c', stdio)
  const before = openFiles()
  for (const name of ['stdin', 'stdout', 'stderr'] as const) {
    const clashing = { ...noStdio, [name]: stdio[name] }
    await t.rejects(world.create('d', clashing), { code: 'ALREADY_EXISTS', message: /already has a process/ })
    await t.rejects(world.containers.addExec(container, { id: 'e', stdio: clashing, spec: execSpec }), { code: 'ALREADY_EXISTS' })
  }
  await openFilesAtMost(t, before)
})

t.test('a create whose caller goes away, or that is deleted or purged meanwhile, is undone', async (t) => {
  for (const how of ['abort', 'delete', 'purge'] as const) {
    for (const step of ['prepare c', 'create c']) {
      const name = `${how}-${step.replace(' ', '-')}`
      const dir = `${t.testdir({ [name]: {} })}/${name}`
      await using world = containersWorld(dir, { storages: [storage(dir)] })
      const { reached, go } = held(world, step)
      const caller = new AbortController()
      const creating = world.create('c', noStdio, caller.signal)
      creating.catch(() => {})
      await reached()
      await t.rejects(world.create('c'), { code: 'ALREADY_EXISTS' }, 'the id is taken already')
      let deleting = Promise.resolve<unknown>(undefined)
      if (how === 'abort') caller.abort(new RuntimeError('CANCELLED', 'hung up'))
      else deleting = world.containers[how]('c')
      deleting.catch(() => {})
      go()
      await t.rejects(creating, { code: 'CANCELLED' })
      if (how === 'delete') await t.rejects(deleting, { code: 'NOT_FOUND' })
      else await deleting
      t.equal(world.steps.at(-1), 'release c', 'undone when the call is answered')
      await leavesNothing(t, world, dir)
    }
  }
})

t.test('the PID namespace of another container is joined while that runs, and of no other process', async (t) => {
  const dir = t.testdir()
  await using world = containersWorld(dir)
  const target = await world.run('target')
  const { pid } = target.init.state
  world.pidNamespace = { kind: 'target', pid }
  await world.create('joins')
  t.match(readFileSync(`${dir}/bundles/joins/config.json`, 'utf8'), `{"type":"pid","path":"/proc/${pid}/ns/pid"}`)
  world.exit(pid, 0)
  await target.init.stopped
  await t.rejects(world.create('late'), { code: 'FAILED_PRECONDITION', message: /no running container here/ }, 'somebody else may have the pid')
  world.pidNamespace = { kind: 'target', pid: process.pid }
  await t.rejects(world.create('foreign'), { code: 'FAILED_PRECONDITION' })
})

t.test('a container that ends before its start, or during it', async (t) => {
  await using world = containersWorld(t.testdir())
  const early = await world.create('early')
  world.exit(early.init.state.pid, 3)
  t.equal((await early.init.stopped).status, 3)
  t.equal(early.init.state.kind, 'stopped')
  await t.rejects(world.containers.start(early), { code: 'FAILED_PRECONDITION' })
  t.notOk(world.steps.includes('start early'))

  const { reached, go } = held(world, 'start short')
  const short = await world.create('short')
  const starting = world.containers.start(short)
  await reached()
  world.exit(short.init.state.pid, 0)
  world.events.length = 0
  go()
  t.equal(await starting, short.init.state.pid)
  await short.init.stopped
  t.strictSame(world.kinds(), ['start', 'exit'], 'in this order')
  t.ok(world.killed('short'), 'who shares its PID namespace ends with it')
})

t.test('a start that fails leaves the container as it was', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.create('c')
  failing(world, 'start c', new RuntimeError('INVALID_ARGUMENT', 'no such command'))
  await t.rejects(world.containers.start(container), { code: 'INVALID_ARGUMENT' })
  t.equal(container.init.state.kind, 'created')
  t.strictSame(world.kinds(), ['create'])
})

t.test('delete: not of what runs; of what was never started, after its end; once', async (t) => {
  const dir = t.testdir()
  await using world = containersWorld(dir, { storages: [storage(dir)] })
  const { containers } = world
  const running = await world.run('c')
  await t.rejects(containers.delete('c'), { code: 'FAILED_PRECONDITION' })
  t.notOk(world.killed('c'))
  world.exit(running.init.state.pid, 7)
  await running.init.stopped
  const both = await Promise.allSettled([containers.delete('c'), containers.delete('c')])
  t.match(both, [{ status: 'fulfilled', value: { pid: running.init.state.pid, exit: { status: 7 } } }, { status: 'rejected', reason: { code: 'NOT_FOUND' } }])
  t.strictSame(world.kinds(), ['create', 'start', 'exit', 'delete'])
  t.strictSame(world.steps, ['prepare c', 'create c', 'start c', 'delete c', 'release c'])

  const never = await world.create('never')
  const deleting = containers.delete('never')
  await until(() => world.killed('never'))
  t.notOk(world.steps.includes('delete never'), 'its end is waited for')
  world.exit(never.init.state.pid, 137)
  t.match(await deleting, { exit: { status: 137 } })
  await leavesNothing(t, world, dir)
})

t.test('purge ends what runs, and is no error for what is gone or going', async (t) => {
  const dir = t.testdir()
  await using world = containersWorld(dir)
  const { containers } = world
  await containers.purge('nobody')
  const container = await world.run('c')
  const purging = Promise.all([containers.purge('c'), containers.purge('c')])
  await until(() => world.killed('c'))
  world.exit(container.init.state.pid, 137)
  await purging
  t.equal(world.kinds().filter((kind) => kind === 'delete').length, 1)
  await leavesNothing(t, world, dir)
})

t.test('so many containers, and so many execs in one', async (t) => {
  await using world = containersWorld(t.testdir())
  for (let index = 0; index < CONTAINERS_MAX - 1; index++) await world.create(`c${index}`)
  const { reached, go } = held(world, 'prepare last')
  const last = world.create('last')
  await reached()
  await t.rejects(world.create('more'), { code: 'RESOURCE_EXHAUSTED' }, 'one that is being made counts')
  go()
  await last
  for (let index = 0; index < EXECS_MAX; index++) await addExec(world, 'last', `e${index}`)
  await t.rejects(addExec(world, 'last', 'e0'), { code: 'ALREADY_EXISTS' })
  await t.rejects(addExec(world, 'last', 'more'), { code: 'RESOURCE_EXHAUSTED' })
})

t.test('an exec: its events, its end, and what is left of it', async (t) => {
  await using world = containersWorld(t.testdir())
  const { containers } = world
  const container = await world.run('c')
  await addExec(world, 'c', 'e')
  const pid = await containers.startExec(container, 'e')
  await t.rejects(containers.startExec(container, 'e'), { code: 'FAILED_PRECONDITION' })
  await t.rejects(containers.deleteExec(container, 'e'), { code: 'FAILED_PRECONDITION' }, 'it runs')
  world.exit(pid, 4)
  t.equal((await container.execs.get('e')?.process.stopped)?.status, 4)
  t.match(await containers.deleteExec(container, 'e'), { pid, exit: { status: 4 } })
  t.strictSame(world.kinds(), ['create', 'start', 'exec-added', 'exec-started', 'exit'])
  t.match(world.events.at(-1), { containerId: 'c', id: 'e', pid })
  await t.rejects(containers.deleteExec(container, 'e'), { code: 'NOT_FOUND' })
  await addExec(world, 'c', 'e')
})

t.test('what a process inherits is open only until the runtime has it, and nothing when the process is deleted', async (t) => {
  await using world = containersWorld(t.testdir())
  const { containers } = world
  const before = openFiles()
  const container = await world.create('c', streams('c'))
  await containers.start(container)
  await openFilesAtMost(t, before + 3)
  await addExec(world, 'c', 'e', streams('e'))
  const pid = await containers.startExec(container, 'e')
  await openFilesAtMost(t, before + 6)
  for (const each of [pid, container.init.state.pid]) world.exit(each, 0)
  await container.init.stopped
  await containers.deleteExec(container, 'e')
  await containers.delete('c')
  await openFilesAtMost(t, before)
})

t.test('an exec that cannot run has ended with its output, and is told to nobody', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.run('c')
  await addExec(world, 'c', 'e', streams('e'))
  failing(world, 'exec c e', new RuntimeError('INVALID_ARGUMENT', 'no such command'))
  await t.rejects(world.containers.startExec(container, 'e'), { code: 'INVALID_ARGUMENT' })
  const stopped = container.execs.get('e')?.process.stopped
  t.ok(await settled(Promise.resolve(stopped)), 'no output is waited for')
  t.equal((await stopped)?.status, 255)
  t.strictSame(world.kinds(), ['create', 'start', 'exec-added'])
  t.match(await world.containers.deleteExec(container, 'e'), { pid: 0, exit: { status: 255 } })
})

t.test('an exec that crun fails while its container ends is told so, and not what crun says', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.run('c')
  await addExec(world, 'c', 'e')
  failing(world, 'exec c e', new RuntimeError('INTERNAL', 'crun: open `/proc/100/ns/mnt`: No such file or directory'))
  const starting = world.containers.startExec(container, 'e')
  // The kernel lets the first process go when all others of its namespace are gone, crun's among them.
  await container.execs.get('e')?.process.stopped
  world.exit(container.init.state.pid, 0)
  await t.rejects(starting, { code: 'FAILED_PRECONDITION', message: 'exec of container c: it has exited' })
})

t.test('where no terminal comes of a runtime that was to send one, the create is undone, and the exec killed', async (t) => {
  const dir = t.testdir()
  const consoles = { open: 0 }
  const terminals: Terminals = {
    listenConsole: async () => {
      consoles.open++
      return { receive: async () => Promise.reject(new Error('nothing came')), [Symbol.asyncDispose]: async () => void consoles.open-- }
    },
    resize: () => {},
  }
  await using world = containersWorld(dir, { terminals })
  const stdio = { ...noStdio, terminal: true }
  await t.rejects(world.create('d', stdio), { code: 'INTERNAL', message: /sent no terminal/ })
  t.strictSame(world.steps, ['prepare d', 'create d', 'delete d', 'release d'])

  const container = await world.run('c')
  await addExec(world, 'c', 'e', stdio)
  const child = spawn('sleep', ['1000'])
  t.teardown(() => child.kill('SIGKILL'))
  world.pid = child.pid
  await t.rejects(world.containers.startExec(container, 'e'), { code: 'INTERNAL', message: /sent no terminal/ })
  t.strictSame(await once(child, 'exit'), [null, 'SIGKILL'])
  world.exit(child.pid ?? 0, 137)
  await container.execs.get('e')?.process.stopped
  await world.containers.deleteExec(container, 'e')
  t.equal(consoles.open, 0)
})

t.test('execs that were never started end with their container, and none starts in one that has ended', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.run('c')
  for (const exec of ['runs', 'waits']) await addExec(world, 'c', exec)
  const pid = await world.containers.startExec(container, 'runs')
  world.exit(container.init.state.pid, 0)
  t.equal((await container.execs.get('waits')?.process.stopped)?.status, 255)
  await container.init.stopped
  t.equal(container.execs.get('runs')?.process.state.kind, 'running', 'the kernel has not let it go')
  await t.rejects(world.containers.startExec(container, 'waits'), { code: 'FAILED_PRECONDITION' })
  world.exit(pid, 137)
  t.equal((await container.execs.get('runs')?.process.stopped)?.status, 137)
})

t.test('an exec that is being started when its container ends has the end that the kernel tells', async (t) => {
  await using world = containersWorld(t.testdir())
  const container = await world.run('c')
  await addExec(world, 'c', 'e')
  const { reached, go } = held(world, 'exec c e')
  const starting = world.containers.startExec(container, 'e')
  await reached()
  world.exit(container.init.state.pid, 0)
  await container.init.stopped
  go()
  world.exit(await starting, 137)
  t.equal((await container.execs.get('e')?.process.stopped)?.status, 137)
})

t.test('pause and resume, and an exit of what is paused', async (t) => {
  await using world = containersWorld(t.testdir())
  const { containers } = world
  const container = await world.run('c')
  await t.rejects(containers.resume(container), { code: 'FAILED_PRECONDITION' })
  failing(world, 'pause c', new RuntimeError('INTERNAL', 'no freezer'))
  await t.rejects(containers.pause(container), { code: 'INTERNAL' })
  t.equal(container.init.state.kind, 'running')
  world.before = async () => {}
  await addExec(world, 'c', 'before')
  await containers.pause(container)
  t.equal(container.init.state.kind, 'paused')
  await t.rejects(containers.startExec(container, 'before'), { code: 'FAILED_PRECONDITION' }, 'it would be frozen in the middle of its making')
  await t.rejects(addExec(world, 'c', 'e'), { code: 'FAILED_PRECONDITION' })
  await containers.resume(container)
  await containers.pause(container)
  world.exit(container.init.state.pid, 137)
  await container.init.stopped
  t.strictSame(world.kinds(), ['create', 'start', 'exec-added', 'paused', 'resumed', 'paused', 'exit'])
})

t.test('a signal to one process, and to all of a container', async (t) => {
  await using world = containersWorld(t.testdir())
  const { containers } = world
  const children = ['init', 'other'].map(() => spawn('sleep', ['1000']))
  t.teardown(() => children.forEach((child) => child.kill('SIGKILL')))
  const [init, other] = children
  world.pid = init?.pid
  const container = await world.run('c')
  writeFileSync(`${world.cgroup('c')}/cgroup.procs`, children.map(({ pid }) => `${pid}\n`).join(''))
  await containers.kill(container, '', 15, false)
  t.strictSame(await once(init ?? t, 'exit'), [null, 'SIGTERM'])
  t.equal(other?.exitCode ?? other?.signalCode, null, 'the other goes on')
  await t.rejects(containers.kill(container, '', 15, false), { code: 'NOT_FOUND' }, 'one that is gone, though nobody has said so yet')

  const next = spawn('sleep', ['1000'])
  t.teardown(() => next.kill('SIGKILL'))
  world.pid = next.pid
  const all = await world.run('all')
  // The first has ended since.
  writeFileSync(`${world.cgroup('all')}/cgroup.procs`, [init, next, other].map((child) => `${child?.pid}\n`).join(''))
  await containers.kill(all, '', 10, true)
  t.strictSame((await Promise.all([next, other].map((child) => once(child ?? t, 'exit')))).flat(), [null, 'SIGUSR1', null, 'SIGUSR1'])
  t.notOk(world.killed('all'))
})
