/**
 * What one sandbox owns, kept on disk ahead of the facts. An intent is durable before the thing exists and is struck
 * out after it is gone; a crash at any point leaves a record that names everything there may be.
 */
import { RuntimeError, explain, unreachable } from '#shared/errors.ts'
import type { OwnedResource, Ownership } from './ownership.ts'
import { formatRecord, type SandboxRecord } from './record.ts'
import type { RecordStore } from './store.ts'
import type { Undo } from './undo.ts'

/** More than a thousand containers' worth; a record that grows past it is a leak. */
const OWNED_MAX = 8192

export class Ledger implements Ownership {
  readonly sandboxId: string
  readonly #store: RecordStore
  readonly #undo: Undo
  #record: SandboxRecord
  readonly #undoing = new Set<OwnedResource>()
  #closed = false
  #removed = false
  #writing: Promise<void> = Promise.resolve()
  #queued: Promise<void> | undefined

  constructor(record: SandboxRecord, store: RecordStore, undo: Undo) {
    this.sandboxId = record.id
    this.#record = record
    this.#store = store
    this.#undo = undo
  }

  get record(): SandboxRecord {
    return this.#record
  }

  list(): readonly OwnedResource[] {
    return this.#record.owned.filter((resource) => !this.#undoing.has(resource))
  }

  /** Changes what the record says besides what is owned; durable when it resolves. */
  async amend(change: Partial<Omit<SandboxRecord, 'owned' | 'version' | 'id'>>): Promise<void> {
    this.note(change)
    await this.#write()
  }

  /** Like `amend`, but reaches the disk with the next write: for what recovery can do without. */
  note(change: Partial<Omit<SandboxRecord, 'owned' | 'version' | 'id'>>): void {
    this.#record = { ...this.#record, ...change }
  }

  async acquire<R extends OwnedResource>(intent: R, create: () => Promise<R | void>): Promise<R> {
    await this.#intend([intent])
    let made: R
    try {
      made = (await create()) ?? intent
    } catch (error) {
      throw await this.#undone([intent], error)
    }
    await this.#settle([intent], [made])
    return made
  }

  async acquireAll(intents: readonly OwnedResource[], create: () => Promise<readonly OwnedResource[] | void>): Promise<void> {
    await this.#intend(intents)
    let made: readonly OwnedResource[]
    try {
      made = (await create()) ?? intents
    } catch (error) {
      throw await this.#undone(intents, error)
    }
    await this.#settle(intents, made)
  }

  /**
   * Takes over everything that another ledger owns, and forgets that one. The one durable write of this record is the
   * change of hands: a crash before it leaves all with the other, after it all is here, whatever the other still says.
   */
  async takeOver(other: Ledger, change: Partial<Omit<SandboxRecord, 'owned' | 'version' | 'id'>>): Promise<void> {
    if (this.#closed) throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${this.sandboxId} is being removed`)
    this.note(change)
    this.#setOwned([...this.#record.owned, ...other.list()])
    await this.#write()
    other.#setOwned([])
    await other.remove()
  }

  async release(match: (resource: OwnedResource) => boolean): Promise<void> {
    const leaving = this.#record.owned.filter(match)
    if (leaving.length === 0) return
    const newestFirst = this.#strikeShared(leaving).toReversed()
    for (const resource of newestFirst) this.#undoing.add(resource)
    const outcomes = await this.#undo(newestFirst, this.sandboxId)
    for (const resource of newestFirst) this.#undoing.delete(resource)
    const gone = new Set(newestFirst.filter((_, index) => outcomes[index] === undefined))
    const failures = new Set(outcomes.filter((outcome) => outcome !== undefined))
    this.#setOwned(this.#record.owned.filter((resource) => !gone.has(resource)))
    await this.#write()
    const [cause] = failures
    if (cause !== undefined)
      throw new RuntimeError('INTERNAL', `sandbox ${this.sandboxId}: not everything could be undone: ${[...failures].map(explain).join('; ')}`, { cause })
  }

  /** Strikes out those mounts of `leaving` that serve somebody else as well, and answers the others. */
  #strikeShared(leaving: readonly OwnedResource[]): readonly OwnedResource[] {
    const ends = new Set(leaving)
    const inUse = new Set(this.list().flatMap((resource) => (resource.kind === 'mount' && !ends.has(resource) ? [resource.target] : [])))
    const last = leaving.filter((resource) => resource.kind !== 'mount' || !inUse.has(resource.target))
    const undone = new Set(last)
    this.#setOwned(this.#record.owned.filter((resource) => !ends.has(resource) || undone.has(resource)))
    return last
  }

  /** Nothing can be acquired any more. */
  close(): void {
    this.#closed = true
  }

  /** Forgets the sandbox. Everything owned must be gone. */
  async remove(): Promise<void> {
    if (this.#record.owned.length > 0)
      throw new RuntimeError('INTERNAL', `sandbox ${this.sandboxId} still owns ${this.#record.owned.map(describe).join(', ')}`)
    this.#closed = true
    this.#removed = true
    // Whether the last write came to anything is of no matter to a record that goes; where there was no room, this makes some.
    await (this.#queued ?? this.#writing).catch(() => {})
    await this.#store.remove(this.sandboxId)
  }

  /** The first write of a new sandbox. */
  save(): Promise<void> {
    return this.#write()
  }

  async #intend(intents: readonly OwnedResource[]): Promise<void> {
    if (this.#closed) throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${this.sandboxId} is being removed`)
    if (this.#record.owned.length + intents.length > OWNED_MAX)
      throw new RuntimeError('RESOURCE_EXHAUSTED', `sandbox ${this.sandboxId} owns ${this.#record.owned.length} things; the limit is ${OWNED_MAX}`)
    this.#setOwned([...this.#record.owned, ...intents])
    await this.#write()
  }

  async #settle(intents: readonly OwnedResource[], made: readonly OwnedResource[]): Promise<void> {
    if (made === intents || (made.length === intents.length && made.every((resource, index) => resource === intents[index]))) return
    // In the intent's place, so that "newest first" keeps its meaning.
    const first = this.#record.owned.indexOf(intents[0] ?? made[0]!)
    const rest = this.#record.owned.filter((resource) => !intents.includes(resource))
    this.#setOwned(rest.toSpliced(Math.max(0, Math.min(first, rest.length)), 0, ...made))
    await this.#write()
  }

  async #undone(intents: readonly OwnedResource[], error: unknown): Promise<unknown> {
    try {
      await this.release((resource) => intents.includes(resource))
      return error
    } catch (undoing) {
      return new RuntimeError('INTERNAL', `${explain(error)}; and ${explain(undoing)}`, { cause: error })
    }
  }

  #setOwned(owned: SandboxRecord['owned']): void {
    this.#record = { ...this.#record, owned }
  }

  /** Writers meanwhile share the next write, which carries all their changes. */
  #write(): Promise<void> {
    // A late note must not bring a forgotten sandbox back.
    if (this.#removed) return Promise.resolve()
    this.#queued ??= this.#writing
      .catch(() => {})
      .then(() => {
        this.#queued = undefined
        this.#writing = this.#store.write(this.sandboxId, formatRecord(this.#record))
        return this.#writing
      })
    return this.#queued
  }
}

export function describe(resource: OwnedResource): string {
  switch (resource.kind) {
    case 'process':
      return `process ${resource.name}${resource.pid === undefined ? '' : ` (pid ${resource.pid})`}`
    case 'mount':
      return `mount ${resource.target}`
    case 'link':
      return `link ${resource.name} in ${resource.netns}`
    case 'directory':
    case 'file':
    case 'cgroup':
      return `${resource.kind} ${resource.path}`
    default:
      return unreachable(resource)
  }
}
