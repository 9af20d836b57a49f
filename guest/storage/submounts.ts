/**
 * The mounts that virtiofsd announces below the share (a container's root, its volumes) are made by the guest's kernel
 * when somebody's path leads into them, and only in that process's mount namespace. Were that the container's alone, such
 * a mount would end with the container's last process, before virtiofsd has heard that the files of that process are
 * closed; and for a mount below a share Linux does not wait for that (virtio_kill_sb, 6.1): "VFS: Busy inodes after
 * unmount", a BUG, and a process that never ends. So the agent enters first, and leaves last: a volume that several
 * containers have in common is held until the last of them has gone.
 */
import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Mounts } from '#shared/os/contract.ts'
import { SharedMount } from './shared-mount.ts'

/** f_type of every fuse file system. Source: linux/magic.h. */
const FUSE = 0x65735546

interface Held {
  /** How many containers it is held for */
  users: number
  /** Set once a container wants to see what others mount in it */
  shared?: SharedMount
}

/** Those of one agent. */
export class Submounts {
  readonly #mounts: Mounts
  readonly #held = new Map<string, Held>()

  constructor(mounts: Mounts) {
    this.#mounts = mounts
  }

  get held(): readonly string[] {
    return [...this.#held.keys()]
  }

  /**
   * Those of `paths` that are mounts of the share. Released by their last holder, they are gone from this namespace. Of
   * those in `shared`, mounts made on them propagate between this namespace and the containers': those that a container has
   * made outlive it, and go with the last holder.
   */
  async hold(paths: readonly string[], shared: ReadonlySet<string> = new Set()): Promise<AsyncDisposable> {
    const held: string[] = []
    const release = async () => {
      const leaving = held.splice(0).toReversed()
      // All of them first: what a container has bound from one into another is answered for by the one it came from.
      for (const path of leaving) await this.#answered(path)
      for (const path of leaving) this.#release(path)
    }
    try {
      for (const path of new Set(paths)) {
        // Counted before it is looked at: who leaves meanwhile leaves it there.
        const holding = this.#held.get(path) ?? { users: 0 }
        this.#held.set(path, holding)
        holding.users++
        if (holding.shared !== undefined || (await isSubmount(path))) {
          held.push(path)
          if (shared.has(path)) holding.shared ??= new SharedMount(this.#mounts, path)
        } else this.#forget(path)
      }
    } catch (error) {
      await release()
      throw error
    }
    return { [Symbol.asyncDispose]: release }
  }

  /** virtiofsd answers in order, and this has to be answered: so was what was closed before. */
  async #answered(path: string): Promise<void> {
    try {
      await statfs(this.#held.get(path)?.shared?.path ?? path)
    } catch {
      // The share is gone, and all that is in it.
    }
  }

  #release(path: string): void {
    const last = this.#forget(path)
    if (last === undefined) return
    try {
      if (last.shared === undefined) this.#mounts.unmount(path, true)
      else last.shared.unmount(this.#mounts)
    } catch {
      // As above.
    }
  }

  /** Answers what nobody holds any more. */
  #forget(path: string): Held | undefined {
    const held = this.#held.get(path)
    if (held === undefined || --held.users > 0) return undefined
    this.#held.delete(path)
    return held
  }
}

/** The "/." is what makes the kernel enter: looking at a mount point alone does not (path_lookup, LOOKUP_AUTOMOUNT). */
async function isSubmount(path: string): Promise<boolean> {
  try {
    const [inside, above] = [await stat(`${path}/.`), await stat(dirname(path))]
    return inside.dev !== above.dev && (await statfs(path)).type === FUSE
  } catch {
    // No directory, or not there: crun will say so.
    return false
  }
}
