/**
 * Mounts inside the guest, counted by target: two containers that name the same target share one mount, and the last
 * to leave takes it away. What lies below `<root>/storages/pod` stays for good: a memory-backed emptyDir outlives each of
 * its containers.
 */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { dirname, normalize } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import type { Mounts } from '#shared/os/contract.ts'
import { SharedMount } from './shared-mount.ts'
import { withSubpath } from './subpath.ts'

/** A mount the sandboxer asks for. With the option "shared", mounts that are made on it propagate between those who bind it. */
export interface Storage {
  readonly type: string
  readonly source: string
  readonly target: string
  readonly options: readonly string[]
}

/** What the guest's kernel can mount without help; "subpath" is a bind of a part of `source` (subpath.ts). */
const kinds = ['virtiofs', 'tmpfs', 'bind', 'erofs', 'overlay', 'ext4', 'xfs', 'proc', 'hugetlbfs', 'subpath']

interface Mounted {
  users: number
  /** Of one with the option "shared" */
  shared?: SharedMount
  /** Settles when the first user's mount has. */
  ready: Promise<void>
}

export class Storages {
  readonly #mounts: Mounts
  readonly #root: string
  readonly #mounted = new Map<string, Mounted>()

  /** Targets outside `root` are refused. */
  constructor(mounts: Mounts, root: string) {
    this.#mounts = mounts
    this.#root = root
  }

  /** Mounts them in order. On an error those already mounted are taken away again. */
  async acquire(storages: readonly Storage[]): Promise<Disposable> {
    const held: string[] = []
    const release = () => {
      for (const target of held.splice(0).toReversed()) this.#release(target)
    }
    try {
      for (const storage of storages) {
        await this.#acquire(storage)
        held.push(storage.target)
      }
    } catch (error) {
      release()
      throw error
    }
    return { [Symbol.dispose]: release }
  }

  get mounted(): readonly string[] {
    return [...this.#mounted.keys()]
  }

  async #acquire(storage: Storage): Promise<void> {
    const { type, source, target } = storage
    const about = `storage ${type} ${source} on ${target}`
    if (normalize(target) !== target || !target.startsWith(`${this.#root}/`)) {
      throw new RuntimeError('INVALID_ARGUMENT', `${about}: expected a plain path below ${this.#root}`)
    }
    if (!kinds.includes(type)) {
      throw new RuntimeError('INVALID_ARGUMENT', `${about}: expected one of the types ${kinds.join(', ')}`)
    }
    const mounted = this.#mounted.get(target) ?? this.#begin(storage, about)
    mounted.users++
    try {
      await mounted.ready
    } catch (error) {
      if (this.#mounted.get(target) === mounted) this.#mounted.delete(target)
      throw error
    }
  }

  #begin(storage: Storage, about: string): Mounted {
    const mounted: Mounted = { users: 0, ready: Promise.resolve() }
    this.#mounted.set(storage.target, mounted)
    mounted.ready = this.#mount(storage, mounted, about)
    return mounted
  }

  async #mount(storage: Storage, mounted: Mounted, about: string): Promise<void> {
    const { type, source, target, options } = storage
    try {
      if (type === 'subpath') return this.#bindSubpath(storage)
      await this.#makeTarget(storage)
      this.#mounts.mount({ source, target, type: type === 'bind' ? '' : type, options: bindOptions(type, options).filter((word) => word !== 'shared') })
      if (options.includes('shared')) mounted.shared = new SharedMount(this.#mounts, target)
    } catch (cause) {
      throw new RuntimeError(cause instanceof RuntimeError ? cause.code : 'INTERNAL', `${about} failed`, { cause })
    }
  }

  #bindSubpath({ source, target, options }: Storage): void {
    withSubpath(source, options, (path, isDirectory) => {
      mkdirSync(isDirectory ? target : dirname(target), { recursive: true })
      if (!isDirectory) writeFileSync(target, '')
      this.#mounts.mount({ source: path, target, type: '', options: ['bind'] })
    })
  }

  async #makeTarget({ type, source, target }: Storage): Promise<void> {
    if (existsSync(target)) return
    const isFile = type === 'bind' && !(await stat(source)).isDirectory()
    mkdirSync(isFile ? dirname(target) : target, { recursive: true })
    if (isFile) writeFileSync(target, '')
  }

  #release(target: string): void {
    const mounted = this.#mounted.get(target)
    if (mounted === undefined || --mounted.users > 0 || target.startsWith(`${this.#root}/storages/pod/`)) return
    this.#mounted.delete(target)
    try {
      if (mounted.shared === undefined) this.#mounts.unmount(target, true)
      else mounted.shared.unmount(this.#mounts)
      rmdirSync(target)
    } catch {
      // Not mounted any more, which is what was asked for; or a single file, whose mount point costs nothing.
    }
  }
}

function bindOptions(type: string, options: readonly string[]): readonly string[] {
  return type !== 'bind' || options.includes('bind') || options.includes('rbind') ? options : ['rbind', ...options]
}
