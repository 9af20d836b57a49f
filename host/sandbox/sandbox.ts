/**
 * One sandbox. Its states and their edges are in state.ts; here is what happens on them. Everything that changes the
 * sandbox waits its turn in one mailbox; what only looks (Status, Wait) never does. The guest's own calls are answered
 * beside the mailbox, for a start that holds it waits for them.
 */
import { RuntimeError, explain } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import { Mailbox } from '#shared/mailbox.ts'
import type { AgentLink } from '../link/agent.ts'
import type { Culprit, RunningSandbox, SandboxExit } from './backend.ts'
import type { BoundBackend } from './backends.ts'
import { claim } from './claim.ts'
import { consoleTail } from './console.ts'
import type { GuestPeer } from './guest.ts'
import { Handshake } from './handshake.ts'
import { Ledger } from './ledger.ts'
import { dropTasks } from './lost-tasks.ts'
import { NetworkWatch } from './network.ts'
import { outOfMemory } from './oom.ts'
import { guestPeer } from './peer.ts'
import { outOfPids } from './pids.ts'
import type { SandboxRecord } from './record.ts'
import { type Guest, type Surroundings, adoptRunning, attachGuest, shutdownGuest } from './running-guest.ts'
import type { SandboxServices } from './services.ts'
import { CONSOLE_LINES, StartFailure, launch, openForwards, paths } from './start.ts'
import { type Exit, type SandboxState, allows, mayBecome, type Operation } from './state.ts'
import { Trace, nowMs } from './trace.ts'
import { Waiters } from './waiters.ts'

/** What Wait answers for a sandbox that died: 128 + SIGKILL, as a shell would. */
const DIED_STATUS = 137

export class Sandbox {
  readonly id: string
  readonly ledger: Ledger
  readonly trace: Trace
  readonly #services: SandboxServices
  readonly #backend: BoundBackend
  readonly #log: Log
  readonly #mailbox: Mailbox
  readonly #onGone: () => void
  readonly #waiters = new Waiters()
  readonly #around: Surroundings
  readonly #peer: GuestPeer
  readonly #handshake: Handshake
  readonly #network: NetworkWatch
  #state: SandboxState<Guest>
  #killing: Promise<void> | undefined

  /** @param record as saved, or as found; `adopting` when an earlier sandboxer wrote it */
  constructor(record: SandboxRecord, backend: BoundBackend, services: SandboxServices, found: boolean, onGone: () => void) {
    this.id = record.id
    this.ledger = new Ledger(record, services.store, services.undo)
    this.trace = new Trace(record.spans, (span) => services.observer.containerSpan(record.sandboxer, span))
    this.#handshake = new Handshake(this.trace)
    this.#services = services
    this.#backend = backend
    this.#log = services.log.with({ sandbox: record.id })
    this.#around = { ledger: this.ledger, backend, services, trace: this.trace, log: this.#log }
    this.#peer = guestPeer(this, this.#handshake, backend, services.logLevel)
    this.#network = new NetworkWatch(this.ledger, this.#log)
    this.#mailbox = new Mailbox(`sandbox ${record.id}`)
    this.#onGone = onGone
    this.#state = found ? { kind: 'adopting' } : { kind: 'created' }
  }

  get state(): SandboxState<Guest> {
    return this.#state
  }

  get record(): SandboxRecord {
    return this.ledger.record
  }

  /** The running guest. Errors: FAILED_PRECONDITION when there is none. */
  get guest(): Guest {
    this.#require('dial')
    if (this.#state.kind === 'ready' || this.#state.kind === 'stopping') return this.#state.running
    throw new RuntimeError('INTERNAL', `sandbox ${this.id} is ${this.#state.kind} without a guest`)
  }

  /** A link to the agent that is the caller's, who closes it: a heartbeat must not wait behind what he asks. */
  openAgent(): AgentLink {
    const { running } = this.guest
    return this.#services.agent((port, signal) => running.dial(port, signal))
  }

  /** The Create that came at `arrivedAtMs` is being answered. Its span is in the record with those of the start. */
  created(arrivedAtMs: number): void {
    this.trace.add({ name: 'create', startMs: arrivedAtMs, endMs: nowMs(), source: 'sandboxer' })
  }

  /** Resolves when the guest is ready. When it rejects, everything is undone and the sandbox is gone. */
  start(signal: AbortSignal): Promise<Guest> {
    return this.#mailbox.run(async () => {
      this.#require('start')
      const cancelled = new AbortController()
      this.#become({ kind: 'starting', sinceMs: nowMs(), cancel: (reason) => cancelled.abort(reason) })
      const given = AbortSignal.any([signal, cancelled.signal])
      try {
        return await this.#launch(given)
      } catch (error) {
        this.#log.warn('start failed', { error })
        const step = error instanceof StartFailure ? error.step : 'other'
        this.#services.observer.startFailed(this.record.sandboxer, given.aborted ? 'cancelled' : step)
        await this.#forget(error)
        throw error
      }
    })
  }

  async #launch(signal: AbortSignal): Promise<Guest> {
    const startMs = nowMs()
    await this.ledger.amend({ state: 'starting' })
    // What waits for nobody waits for this.
    using _starting = this.#services.warm.starting()
    const context = {
      ledger: this.ledger,
      backend: this.#backend,
      services: this.#services,
      trace: this.trace,
      peer: this.#peer,
      handshake: this.#handshake,
      signal,
    }
    const claimed = await claim(context)
    const launched = claimed ?? (await launch(context))
    this.trace.add({ name: 'start', startMs, endMs: nowMs(), source: 'sandboxer' })
    this.trace.startIsOver()
    const { taskAddress, vmmPid, adoption } = launched.running
    const guest = await attachGuest(launched, this.#around)
    this.#become({ kind: 'ready', readyAtMs: Date.now(), running: guest })
    this.#watch(guest)
    await this.ledger.amend({ state: 'ready', readyAtMs: Date.now(), taskAddress, vmmPid, adoption, spans: [...this.trace.spans] })
    this.#services.observer.started(this.record.sandboxer, claimed === undefined ? 'cold' : 'warm', this.record.spans)
    return guest
  }

  /** What is left of a start that failed, by itself or by a Stop: nothing, or a record of what resists. */
  async #forget(error: unknown): Promise<void> {
    const exit = { status: DIED_STATUS, atMs: Date.now(), reason: explain(error) }
    if (this.#state.kind === 'ready') {
      const { running } = this.#state.running
      await this.#bury(this.#state.running, exit)
      await this.#killQuietly(running)
    }
    await this.#releaseQuietly()
    if (this.ledger.list().length === 0 && (await this.#goneQuietly(exit))) return
    if (this.#state.kind !== 'stopped') this.#become({ kind: 'stopped', exit })
    await this.#note({ state: 'stopped', exit })
  }

  /** Whether it is gone. A record that cannot be removed is Shutdown's to try again, and none may wait for that. */
  async #goneQuietly(exit: Exit): Promise<boolean> {
    try {
      await this.#gone(exit)
      return true
    } catch (error) {
      this.#log.error('the record is not removed', { error })
      return false
    }
  }

  async #gone(exit: Exit): Promise<void> {
    await this.ledger.remove()
    this.#waiters.tell(exit)
    this.#become({ kind: 'gone' })
    this.#onGone()
  }

  /** Resolves when nothing of the sandbox runs and its network is free. Idempotent. */
  stop(): Promise<void> {
    this.#cancelStart('it was stopped')
    return this.#mailbox.run(() => this.#stop())
  }

  async #stop(): Promise<void> {
    const state = this.#state
    if (state.kind === 'created') {
      const exit = { status: 0, atMs: Date.now(), reason: 'stopped before it was started' }
      this.#become({ kind: 'stopped', exit })
      await this.#note({ state: 'stopped', exit })
    }
    if (state.kind === 'ready') await this.#end(state.running)
    await this.#releaseAll()
  }

  async #end(guest: Guest): Promise<void> {
    this.#become({ kind: 'stopping', running: guest })
    await this.#note({ state: 'stopping' })
    await guest.containers.close()
    await shutdownGuest(guest, this.#around)
    await this.#killQuietly(guest.running)
    await this.#bury(guest, { status: 0, atMs: Date.now(), reason: 'stopped' })
    await this.#dropTasks()
  }

  /** Stops what runs, gives everything back and forgets the sandbox. Idempotent. */
  shutdown(): Promise<void> {
    this.#cancelStart('it was shut down')
    return this.#mailbox.run(async () => {
      if (this.#state.kind === 'gone') return
      await this.#stop()
      await this.#gone({ status: 0, atMs: Date.now(), reason: 'shut down' })
    })
  }

  /** Ends the guest by force: it is frozen, or not what it should be. Once, however often a guest makes it be asked meanwhile. */
  kill(reason: string, of: Culprit): Promise<void> {
    this.#killing ??= this.#mailbox
      .run(async () => {
        if (this.#state.kind === 'ready') await this.#die(this.#state.running, { reason, of, atMs: Date.now() })
      })
      .finally(() => (this.#killing = undefined))
    return this.#killing
  }

  /** Resolves when the sandbox has ended, at once if it has. */
  wait(signal: AbortSignal): Promise<Exit> {
    if (this.#state.kind === 'stopped') return Promise.resolve(this.#state.exit)
    if (this.#state.kind === 'gone') return Promise.reject(new RuntimeError('NOT_FOUND', `sandbox ${this.id} is gone`))
    return this.#waiters.wait(signal)
  }

  /** Tells what an earlier sandboxer left: a guest that lives, or a record of one that does not. */
  adopt(): Promise<void> {
    return this.#mailbox.run(async () => {
      const { state, exit } = this.record
      if (state === 'starting') {
        this.#services.observer.recovered('undone')
        return this.#forget(new RuntimeError('ABORTED', 'the sandboxer ended during the start'))
      }
      if (state === 'created') return this.#become({ kind: 'created' })
      if (state === 'stopped') {
        this.#become({ kind: 'stopped', exit: exit ?? { status: DIED_STATUS, atMs: Date.now(), reason: 'unknown' } })
        return this.#releaseQuietly()
      }
      try {
        await this.#adoptGuest()
        this.#services.observer.recovered('adopted')
      } catch (error) {
        this.#log.warn('the sandbox is not adopted', { error })
        this.#services.observer.recovered('lost')
        await this.#note({ state: 'stopped' })
        this.#become({ kind: 'stopped', exit: { status: DIED_STATUS, atMs: Date.now(), reason: explain(error) } })
        await this.#note({ exit: { status: DIED_STATUS, atMs: Date.now(), reason: explain(error) } })
        await this.#releaseQuietly()
        // Nobody's recovery waits for containerd.
        void this.#dropTasks()
        return
      }
      // Goes on where its predecessor was, while the others are served.
      if (state === 'stopping') void this.stop().catch((error: unknown) => this.#log.error('the stop is not finished', { error }))
    })
  }

  async #adoptGuest(): Promise<void> {
    const running = await adoptRunning(this.#around)
    const link = await this.#services.links.listen(paths(this.#services.sandboxesDir, this.record).linkSocket, this.#peer)
    const forwards = await openForwards(running, this.#around)
    const guest = await attachGuest({ running, link, forwards }, this.#around)
    this.trace.startIsOver()
    this.#become({ kind: 'ready', readyAtMs: this.record.readyAtMs ?? Date.now(), running: guest })
    this.#watch(guest)
  }

  /** Hands on what has changed in the pod's network namespace. Beside the mailbox: it only tells, and a stop may overtake it. */
  async lookAtNetwork(): Promise<void> {
    if (this.#state.kind === 'ready') await this.#network.look(this.#state.running, () => this.#state.kind === 'ready')
  }

  /** The sandboxer ends; the guest lives on. */
  detach(): void {
    if (this.#state.kind === 'ready') this.#state.running.running.detach()
  }

  async consoleTail(linesMax: number): Promise<string[]> {
    if (this.#state.kind === 'ready') return this.#state.running.running.consoleTail(linesMax)
    const lines = await consoleTail(paths(this.#services.sandboxesDir, this.record).console, linesMax)
    return lines.length > 0 ? lines : (this.record.exit?.console ?? []).slice(-linesMax)
  }

  #watch(guest: Guest): void {
    void guest.running.exited.then((exit) =>
      this.#mailbox.run(async () => {
        if (this.#state.kind === 'ready' && this.#state.running === guest) await this.#die(guest, exit)
      }),
    )
  }

  async #die(guest: Guest, { reason: how, of, atMs }: Pick<SandboxExit, 'reason' | 'of' | 'atMs'>): Promise<void> {
    const memory = await outOfMemory(this.record.cgroupProcs)
    const why = memory ?? (await outOfPids(this.record.cgroupProcs))
    const reason = why === undefined ? how : `${how}: ${why}`
    const exit = { status: DIED_STATUS, atMs, reason }
    this.#services.observer.died(this.record.sandboxer, of, memory !== undefined)
    await this.#bury(guest, exit)
    // The console goes with the directory; what the guest said last is all that tells why.
    const console = await guest.running.consoleTail(CONSOLE_LINES).catch(() => [])
    this.#log.warn('sandbox died', { reason, console })
    await this.#note({ exit: { ...exit, console } })
    await this.#killQuietly(guest.running)
    await guest.containers.close()
    await this.#dropTasks()
    await this.#releaseQuietly()
  }

  /** The end of a guest, told to those who wait before anything is tidied up. */
  async #bury(guest: Guest, exit: Exit): Promise<void> {
    if (this.#state.kind === 'ready' || this.#state.kind === 'stopping') this.#become({ kind: 'stopped', exit })
    guest.agent.close()
    guest.forwards[Symbol.dispose]()
    await guest.link[Symbol.asyncDispose]()
    await this.#note({ state: 'stopped', exit })
  }

  /** What is not ended here is in the ledger, and is tried again from there. */
  async #killQuietly(running: RunningSandbox): Promise<void> {
    await running.kill().catch((error: unknown) => this.#log.error('processes of a dead sandbox remain', { error }))
  }

  /** Once nothing of the guest runs: a call to one that is being ended would wait for it. */
  #dropTasks(): Promise<void> {
    return dropTasks(this.record, this.#services, this.#log)
  }

  /** Processes first: what they still use cannot be unmounted. */
  async #releaseAll(): Promise<void> {
    await this.ledger.release((resource) => resource.kind === 'process')
    await this.ledger.release(() => true)
  }

  /** What could not be given back stays in the record; Shutdown tries again and says so. */
  async #releaseQuietly(): Promise<void> {
    await this.#releaseAll().catch((error: unknown) => this.#log.error('not everything could be given back', { error }))
  }

  /** A record that lags behind costs recovery a second look; it must not keep a sandbox from ending. */
  async #note(change: Parameters<Ledger['amend']>[0]): Promise<void> {
    await this.ledger.amend(change).catch((error: unknown) => this.#log.error('the record is not written', { error }))
  }

  #cancelStart(why: string): void {
    if (this.#state.kind === 'starting') this.#state.cancel(new RuntimeError('CANCELLED', `sandbox ${this.id}: ${why} while it started`))
  }

  #require(operation: Operation): void {
    if (!allows(operation, this.#state.kind))
      throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${this.id} is ${this.#state.kind}: ${operation} is not possible`)
  }

  /** The one door between states. */
  #become(next: SandboxState<Guest>): void {
    const from = this.#state.kind
    if (!mayBecome(from, next.kind)) throw new RuntimeError('INTERNAL', `sandbox ${this.id} cannot go from ${from} to ${next.kind}`)
    this.#state = next
    this.#log.info('sandbox state', { from, to: next.kind })
    if (next.kind === 'stopped') this.#waiters.tell(next.exit)
  }
}
