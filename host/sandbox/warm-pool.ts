/**
 * VMs that have booted before their pods: each is one whose agent has said Hello and has had no answer yet. The answer is
 * all that makes it a pod's, so a start that finds one is over when the guest has applied it.
 *
 *   booting ──Hello──► waiting ──take──► taken ──the sandbox's record is written──► a sandbox's own
 *      │                  │                │
 *      └──────fail────────┴──────die───────┴────► ended; the sandbox, if there is one, starts cold
 *
 * booting  It has a record of its own, with the state "warm", and a network namespace, cgroup and directory of its own.
 *          One at a time, and none is begun while a sandbox starts: whoever waits for a pod goes first.
 * waiting  The same, and its Hello is here. Nothing looks after it but its processes' deaths; one whose Hello is gone, with
 *          its link, when a sandbox has started is ended, for it would serve none.
 * taken    Out of the pool, in memory only. claim.ts gives all it owns to the sandbox's record in one durable write;
 *          before that write a crash leaves a warm VM, after it a sandbox that was starting. Both are undone.
 * ended    Everything given back and the record gone. What resists is tried again before the next VM is booted.
 *
 * A warm VM holds no pod. So a sandboxer that starts ends those of the one before, one that is told to end ends its own,
 * and whatever goes wrong with one is no pod's error. Those that were taken for nothing, died or failed to boot make the
 * next wait, twice as long each time until a pod has taken one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { RuntimeError } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import { Ledger } from './ledger.ts'
import type { WarmFate } from './observer.ts'
import type { SandboxRecord } from './record.ts'
import type { LaunchServices } from './services.ts'
import { bootWarmVm, warmLedger, type WarmSetting, type WarmVm } from './warm-vm.ts'

/** Before another try after a VM that came to nothing, in ms: doubled each time. */
const RETRY_MS_FIRST = 1_000
const RETRY_MS_MAX = 60_000
/** What the VMs get to be ended in when the sandboxer ends, in ms. The next one ends what is left. */
const CLOSE_MS_MAX = 30_000

export interface WarmOptions {
  /** Sandboxer name → how many VMs shall wait */
  readonly wanted: ReadonlyMap<string, number>
  readonly size: WarmSetting['size']
  readonly cgroupParent: string
}

/** What the start of a sandbox sees of the pool. */
export interface WarmSupply {
  /** Whether a VM waits that could serve this pod. */
  has(record: SandboxRecord): boolean
  /** Takes one out. It is the caller's, to hand to the sandbox or to `end`. */
  take(record: SandboxRecord): WarmVm | undefined
  /** A VM that was taken and could not be handed over. Never rejects. */
  end(vm: WarmVm): Promise<void>
  /** A pod runs on one: whatever was wrong with those before is over. */
  served(vm: WarmVm): void
  /** No VM is begun until it is disposed of. */
  starting(): Disposable
}

export class WarmPool implements WarmSupply {
  readonly #options: WarmOptions
  readonly #closing = new AbortController()
  #services: LaunchServices | undefined
  #waiting: readonly WarmVm[] = []
  #booting: Ledger | undefined
  /** To be undone, of VMs that no longer serve */
  #remains: readonly Ledger[] = []
  /** Sandboxers, the one that had its turn last at the end: one that never boots must not keep the others from it */
  #turns: readonly string[]
  #starts = 0
  #failures = 0
  #work: Promise<void> | undefined
  #retry: NodeJS.Timeout | undefined

  constructor(options: WarmOptions) {
    this.#options = options
    this.#turns = [...options.wanted.keys()]
  }

  /** Begins to fill. `left`: records of warm VMs that an earlier sandboxer had. */
  begin(services: LaunchServices, left: readonly SandboxRecord[]): void {
    this.#services = services
    this.#remains = left.map((record) => new Ledger(record, services.store, services.undo))
    this.#fill()
  }

  /** Records of the VMs there are, for people. */
  get all(): readonly { readonly state: 'warming' | 'warm'; readonly record: SandboxRecord; readonly vmmPid: number }[] {
    const booting = this.#booting === undefined ? [] : [{ state: 'warming', record: this.#booting.record, vmmPid: 0 } as const]
    return [...this.#waiting.map(({ ledger, launched }) => ({ state: 'warm', record: ledger.record, vmmPid: launched.running.vmmPid }) as const), ...booting]
  }

  has(record: SandboxRecord): boolean {
    return this.#find(record) !== undefined
  }

  take(record: SandboxRecord): WarmVm | undefined {
    const vm = this.#find(record)
    if (vm === undefined) return undefined
    this.#drop(vm)
    return vm
  }

  async end(vm: WarmVm): Promise<void> {
    this.#tell(vm, 'unusable')
    await this.#giveUp(vm)
  }

  async #giveUp(vm: WarmVm): Promise<void> {
    await this.#end(vm)
    this.#wait()
  }

  served(vm: WarmVm): void {
    this.#tell(vm, 'claimed')
    this.#failures = 0
  }

  starting(): Disposable {
    this.#starts++
    return {
      [Symbol.dispose]: () => {
        this.#starts--
        this.#endMute()
        this.#fill()
      },
    }
  }

  /** Ends all of it, within CLOSE_MS_MAX. At once when there is nothing. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('CANCELLED', 'the sandboxer ends'))
    clearTimeout(this.#retry)
    const waiting = this.#waiting
    this.#waiting = []
    if (this.#work === undefined && waiting.length === 0) return
    const ended = Promise.all([this.#work, ...waiting.map((vm) => this.#end(vm))])
    await Promise.race([ended, sleep(CLOSE_MS_MAX, undefined, { ref: false })])
  }

  /** Of its size, and with nothing that a VM is told when it boots. */
  #find({ sandboxer, plan }: SandboxRecord): WarmVm | undefined {
    const { vcpus, memoryMiB } = this.#options.size
    if (plan.vcpus !== vcpus || plan.memoryMiB !== memoryMiB || plan.guest.hugepagesMiB > 0 || Object.keys(plan.annotations).length > 0) return undefined
    return this.#waiting.find(({ ledger, peer }) => ledger.record.sandboxer === sandboxer && peer.waits)
  }

  #tell({ ledger }: WarmVm, fate: WarmFate): void {
    this.#services?.observer.warmEnded(ledger.record.sandboxer, fate)
  }

  #drop(vm: WarmVm): void {
    this.#waiting = this.#waiting.filter((other) => other !== vm)
  }

  /** One at a time, in a loop that ends when the pool is full or somebody starts a sandbox. */
  #fill(): void {
    const services = this.#services
    if (services === undefined || this.#work !== undefined || this.#retry !== undefined || this.#closing.signal.aborted) return
    if (this.#remains.length === 0 && this.#short(services) === undefined) return
    const work = this.#fillUp(services).catch((error: unknown) => {
      services.log.error('warm VMs are not made', { error })
      this.#wait()
    })
    this.#work = work.finally(() => {
      this.#work = undefined
      // A start may have ended while the last VM was booted.
      if (this.#starts === 0) this.#fill()
    })
  }

  async #fillUp(services: LaunchServices): Promise<void> {
    await this.#undoRemains(services.log)
    for (let next = this.#short(services); next !== undefined && this.#starts === 0; next = this.#short(services)) {
      if (this.#retry !== undefined || this.#closing.signal.aborted) return
      await this.#boot(next, services)
    }
  }

  /** The first in turn that has too few. */
  #short(services: LaunchServices): WarmSetting | undefined {
    const { wanted, size, cgroupParent } = this.#options
    for (const sandboxer of this.#turns) {
      const backend = services.backend(sandboxer)
      const has = this.#waiting.filter(({ ledger }) => ledger.record.sandboxer === sandboxer).length
      if (backend !== undefined && has < (wanted.get(sandboxer) ?? 0)) return { sandboxer, backend, size, cgroupParent, namespace: services.namespace }
    }
    return undefined
  }

  async #boot(setting: WarmSetting, services: LaunchServices): Promise<void> {
    this.#turns = [...this.#turns.filter((sandboxer) => sandboxer !== setting.sandboxer), setting.sandboxer]
    const ledger = warmLedger(setting, services)
    const log = services.log.with({ vm: ledger.sandboxId, backend: setting.sandboxer })
    this.#booting = ledger
    try {
      await ledger.save()
      const vm = await bootWarmVm(ledger, setting.backend, services, this.#closing.signal)
      if (this.#closing.signal.aborted) return await this.#end(vm)
      this.#waiting = [...this.#waiting, vm]
      log.info('a warm VM waits', { bootMs: Math.round(vm.bootMs) })
      services.observer.warmBooted(setting.sandboxer, vm.bootMs)
      void vm.launched.running.exited.then(({ reason }) => this.#died(vm, 'died', reason, log))
    } catch (error) {
      if (!this.#closing.signal.aborted) {
        log.warn('a warm VM did not boot', { error })
        services.observer.warmEnded(setting.sandboxer, 'boot-failed')
      }
      await this.#undo(ledger, log)
      this.#wait()
    } finally {
      this.#booting = undefined
    }
  }

  #endMute(): void {
    for (const vm of this.#waiting) if (!vm.peer.waits) void this.#died(vm, 'mute', 'its agent has dropped its Hello', this.#services?.log.with({ vm: vm.id }))
  }

  async #died(vm: WarmVm, fate: WarmFate, reason: string, log: Log | undefined): Promise<void> {
    if (!this.#waiting.includes(vm)) return
    log?.warn('a warm VM is lost', { reason })
    this.#tell(vm, fate)
    this.#drop(vm)
    await this.#giveUp(vm)
  }

  async #end({ launched: { running, link }, ledger }: WarmVm): Promise<void> {
    const log = this.#services?.log.with({ vm: ledger.sandboxId })
    await running.kill().catch((error: unknown) => log?.error('processes of a warm VM remain', { error }))
    await link[Symbol.asyncDispose]()
    await this.#undo(ledger, log)
  }

  /** Processes first: what they still use cannot be unmounted. A VM that was handed over owns nothing any more. */
  async #undo(ledger: Ledger, log: Log | undefined): Promise<void> {
    try {
      await ledger.release((resource) => resource.kind === 'process')
      await ledger.release(() => true)
      await ledger.remove()
    } catch (error) {
      log?.error('not everything of a warm VM could be given back', { error })
      this.#remains = [...this.#remains, ledger]
      this.#wait()
    }
  }

  async #undoRemains(log: Log): Promise<void> {
    const remains = this.#remains
    this.#remains = []
    for (const ledger of remains) await this.#undo(ledger, log.with({ vm: ledger.sandboxId }))
  }

  /** One has come to nothing: the next is not begun at once. */
  #wait(): void {
    if (this.#closing.signal.aborted || this.#retry !== undefined) return
    const waitMs = Math.min(RETRY_MS_MAX, RETRY_MS_FIRST * 2 ** this.#failures++)
    this.#retry = setTimeout(() => {
      this.#retry = undefined
      this.#fill()
    }, waitMs).unref()
  }
}
