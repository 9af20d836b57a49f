/**
 * What every backend promises, as a suite of tests that each must pass: a guest comes up and dials, can be dialled, dies
 * and is seen to, outlives its sandboxer and is found again, and leaves nothing, whatever the moment it was given up in.
 */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { silentLog } from '#shared/log.ts'
import type { Mounts } from '#shared/os/contract.ts'
import type { Rpc } from '#shared/rpc/services.ts'
import { createGuestLinks } from '../api/host-service.ts'
import { AGENT_PORT, AgentLink } from '../link/agent.ts'
import type { LaunchContext, LaunchPlan, RunningSandbox } from '../sandbox/backend.ts'
import type { BoundBackend } from '../sandbox/backends.ts'
import { createPodCgroup, hierarchies } from '../sandbox/cgroup.ts'
import type { GuestPeer } from '../sandbox/guest.ts'
import { Ledger } from '../sandbox/ledger.ts'
import type { OwnedProcess } from '../sandbox/ownership.ts'
import { findMarked, isAlive } from '../sandbox/processes.ts'
import { RECORD_VERSION } from '../sandbox/record.ts'
import { openShare } from '../sandbox/share.ts'
import { paths } from '../sandbox/start.ts'
import { DirectoryStore } from '../sandbox/store.ts'
import { undo } from '../sandbox/undo.ts'

export interface Subject {
  /** Made from its table of the configuration, with defaults that work where the suite runs */
  readonly backend: BoundBackend
  /** A table that names something that is not there; what the launch then says */
  readonly broken?: { readonly backend: BoundBackend; readonly message: RegExp }
  readonly rpc: Rpc
  readonly mounts: Mounts
  /** Names of the processes it starts per sandbox; none when guests live in the sandboxer */
  readonly processes: readonly string[]
  readonly memoryMiB: number
}

/** Longer than any start under emulation on a busy machine. */
const READY_MS_MAX = 240_000
/** A vsock port nobody listens on. */
const CLOSED_PORT = 4_000

/** Everything around one sandbox that a sandboxer would have made. */
class Bench implements AsyncDisposable {
  readonly ledger: Ledger
  readonly plan: LaunchPlan
  readonly marks: string[] = []
  readonly context: LaunchContext
  readonly said: string[] = []
  readonly #stateDir: string
  readonly #link: AsyncDisposable
  readonly #waiting = new Map<string, () => void>()
  readonly #abort = new AbortController()

  private constructor(stateDir: string, ledger: Ledger, plan: LaunchPlan, link: (peer: GuestPeer) => AsyncDisposable) {
    this.#stateDir = stateDir
    this.ledger = ledger
    this.plan = plan
    this.context = { ownership: ledger, log: silentLog, mark: (name) => this.marks.push(name), signal: this.#abort.signal }
    this.#link = link(this.#peer())
  }

  static async open(t: Test, { backend, rpc, mounts, memoryMiB }: Subject): Promise<Bench> {
    const stateDir = await mkdtemp('/tmp/c-')
    const id = `c${process.pid}-${Date.now().toString(36)}`
    const at = paths(join(stateDir, 's'), { id })
    const plan = { vcpus: 1, memoryMiB, cgroupPath: `/kuasar-test/kuasar-${id}`, annotations: {} }
    const guest = { hostname: 'contract', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 0, hugepagesMiB: 0, memoryLimitBytes: 0 }
    const ledger = new Ledger(
      {
        version: RECORD_VERSION,
        id,
        sandboxer: backend.kind,
        namespace: 'k8s.io',
        bootId: '',
        createdAtMs: Date.now(),
        pod: { name: 'contract', namespace: 'test', uid: '', attempt: 0 },
        state: 'starting',
        plan: { ...plan, guest },
        owned: [],
        spans: [],
        cgroupProcs: [],
        containers: [],
        published: '0',
      },
      await DirectoryStore.open(join(stateDir, 'ledger')),
      undo,
    )
    await ledger.acquire({ kind: 'directory', path: at.dir }, async () => {
      await mkdir(at.dir, { recursive: true, mode: 0o700 })
    })
    if (backend.capabilities.sharing === 'virtiofs') await openShare(at.sharedDir, ledger, mounts)
    const cgroupProcs = await createPodCgroup(plan.cgroupPath, await hierarchies(), ledger)
    const links = createGuestLinks(rpc, 'contract', silentLog)
    let listening: Promise<AsyncDisposable> | undefined
    const bench = new Bench(
      stateDir,
      ledger,
      {
        sandboxId: id,
        dir: at.dir,
        sharedDir: at.sharedDir,
        linkSocket: at.linkSocket,
        vcpus: plan.vcpus,
        memoryMiB,
        netnsPath: undefined,
        nics: [],
        cgroupProcs,
        annotations: {},
        logLevel: 'debug',
      },
      (peer) => {
        listening = links.listen(at.linkSocket, peer)
        return { [Symbol.asyncDispose]: async () => (await listening)?.[Symbol.asyncDispose]() }
      },
    )
    await listening
    t.teardown(() => bench[Symbol.asyncDispose]())
    return bench
  }

  /** The backend's launch, and the guest's Ready. */
  async launch(backend: BoundBackend): Promise<RunningSandbox> {
    const running = await backend.launch(this.plan, this.context)
    const died = running.exited.then(async ({ reason }) => {
      throw new RuntimeError('ABORTED', `${reason}\n${(await running.consoleTail(20)).join('\n')}`)
    })
    await Promise.race([this.heard('ready'), died])
    died.catch(() => {})
    return running
  }

  /** Rejects when the guest does not say it in time. */
  async heard(word: string): Promise<void> {
    if (this.said.includes(word)) return
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting.set(word, resolve)
    const timer = setTimeout(() => reject(new Error(`the guest did not say ${word} within ${READY_MS_MAX} ms`)), READY_MS_MAX).unref()
    await promise.finally(() => clearTimeout(timer))
  }

  get processes(): readonly OwnedProcess[] {
    return this.ledger.list().filter((resource) => resource.kind === 'process')
  }

  murder(name: string): void {
    const victim = this.processes.find((owned) => owned.name === name)
    if (victim?.pid === undefined) throw new Error(`no process ${name} was started`)
    process.kill(victim.pid, 'SIGKILL')
  }

  abort(): void {
    this.#abort.abort(new RuntimeError('CANCELLED', 'given up'))
  }

  /** Undoes all, and says what is left anyway. */
  async leftovers(): Promise<string[]> {
    await this.ledger.release(({ kind }) => kind === 'process')
    await this.ledger.release(() => true)
    const marked = await findMarked((marker) => marker.startsWith(`${this.plan.sandboxId}/`))
    const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter((line) => line.includes(this.#stateDir))
    return [...marked.map(({ pid }) => `process ${pid}`), ...mounts]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#link[Symbol.asyncDispose]()
    await this.leftovers()
    await rm(this.#stateDir, { recursive: true, force: true })
  }

  #say(word: string): void {
    this.said.push(word)
    this.#waiting.get(word)?.()
  }

  #peer(): GuestPeer {
    const { ledger } = this
    return {
      id: ledger.sandboxId,
      hello: ({ resumed }) => {
        this.#say(resumed ? 'hello again' : 'hello')
        return { protocolVersion: 1, sandboxId: ledger.sandboxId, guest: ledger.record.plan.guest, pidsLimit: 0, network: { links: [], routes: [], neighbours: [] }, cards: [], storages: [], logLevel: 'debug' }
      },
      ready: () => this.#say('ready'),
      prepare: refuse,
      release: refuse,
      created() {},
      publish: refuse,
    }
  }
}

const refuse = () => Promise.reject(new RuntimeError('NOT_FOUND', 'the suite has no containers'))

export async function backendContract(t: Test, subject: Subject): Promise<void> {
  const { backend, rpc, processes } = subject
  await backend.probe(silentLog)

  await t.test('a guest comes up, is reached, and is ended', async (t) => {
    const bench = await Bench.open(t, subject)
    const running = await bench.launch(backend)
    t.same(bench.said, ['hello', 'ready'])
    t.match(running.taskAddress, /^ttrpc\+(hvsock|unix):\/\/\/[^:]+(:1024)?$/)
    t.ok(running.taskAddress.includes(bench.plan.dir), 'its socket is in its own directory')
    const agent = new AgentLink((port, signal) => running.dial(port, signal), rpc, 'contract')
    await agent.ping(AbortSignal.timeout(READY_MS_MAX))
    t.same(await agent.tasks(AbortSignal.timeout(READY_MS_MAX)), [])
    agent.close()
    if (backend.capabilities.ownKernel)
      await t.rejects(running.dial(CLOSED_PORT, AbortSignal.timeout(READY_MS_MAX)), { code: 'UNAVAILABLE' }, 'a port without a listener')
    const lines = await running.consoleTail(5)
    t.ok(lines.length > 0 && lines.length <= 5, `its console says ${lines.at(-1)}`)
    t.same(bench.processes.map(({ name }) => name).sort(), [...processes].sort(), 'its processes are in the ledger')
    t.ok(bench.plan.cgroupProcs.length > 0, 'the machine has cgroups that pods are put into')
    for (const { name, pid = 0, startTicks } of bench.processes) {
      t.ok(await isAlive(pid, startTicks), `${name} runs`)
      for (const file of bench.plan.cgroupProcs)
        t.ok((await readFile(file, 'utf8')).split('\n').includes(String(pid)), `${name} is in ${file}`)
    }
    await running.kill()
    t.match(await running.exited, { expected: true })
    for (const { name, pid = 0, startTicks } of bench.processes) t.notOk(await isAlive(pid, startTicks), `${name} is gone`)
    await running.kill()
    await t.rejects(running.dial(AGENT_PORT, AbortSignal.timeout(READY_MS_MAX)), { code: 'UNAVAILABLE' })
    t.same(await bench.leftovers(), [])
  })

  // Guests without processes of their own end with their sandboxer.
  const outlives = processes.length > 0
  await t.test(outlives ? 'it is found again by its record' : 'its record finds nothing', async (t) => {
    const bench = await Bench.open(t, subject)
    const first = await bench.launch(backend)
    first.detach()
    if (!outlives) await first.kill()
    const record = { sandboxId: bench.plan.sandboxId, plan: bench.plan, adoption: structuredClone(first.adoption), owned: bench.ledger.list() }
    if (!outlives) {
      await t.rejects(backend.adopt(record, bench.context), { code: 'NOT_FOUND' })
      return
    }
    const second = await backend.adopt(record, bench.context)
    t.equal(second.taskAddress, first.taskAddress)
    t.equal(second.vmmPid, first.vmmPid)
    const agent = new AgentLink((port, signal) => second.dial(port, signal), rpc, 'contract')
    await agent.ping(AbortSignal.timeout(READY_MS_MAX))
    agent.close()
    const [victim = ''] = processes
    bench.murder(victim)
    t.match(await second.exited, { expected: false }, `${victim} was killed, and that is seen`)
    await second.kill()
    await t.rejects(backend.adopt(record, bench.context), { code: 'NOT_FOUND' }, 'the dead are not adopted')
    t.same(await bench.leftovers(), [])
  })

  for (const name of processes.slice(1))
    await t.test(`it cannot live without its ${name}`, async (t) => {
      const bench = await Bench.open(t, subject)
      const running = await bench.launch(backend)
      bench.murder(name)
      t.match(await running.exited, { expected: false })
      await running.kill()
      t.same(await bench.leftovers(), [])
    })

  await t.test('a launch that is given up leaves nothing', async (t) => {
    const bench = await Bench.open(t, subject)
    bench.abort()
    await t.rejects(
      (async () => {
        const running = await backend.launch(bench.plan, bench.context)
        await running.kill()
        bench.context.signal.throwIfAborted()
      })(),
      { code: 'CANCELLED' },
    )
    t.same(await bench.leftovers(), [])
  })

  const { broken } = subject
  if (broken !== undefined)
    await t.test('a launch that fails says what is missing', async (t) => {
      const bench = await Bench.open(t, subject)
      await t.rejects(bench.launch(broken.backend), { message: broken.message })
      t.same(await bench.leftovers(), [])
    })
}
