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

/** f_type of every fuse file system. Source: linux/magic.h. */
const FUSE = 0x65735546

/** Those of one agent. */
export class Submounts {
  readonly #mounts: Mounts
  /** How many containers each is held for */
  readonly #users = new Map<string, number>()

  constructor(mounts: Mounts) {
    this.#mounts = mounts
  }

  get held(): readonly string[] {
    return [...this.#users.keys()]
  }

  /** Those of `paths` that are mounts of the share. Released by their last holder, they are gone from this namespace. */
  async hold(paths: readonly string[]): Promise<AsyncDisposable> {
    const held: string[] = []
    for (const path of new Set(paths)) {
      // Counted before it is looked at: who leaves meanwhile leaves it there.
      this.#users.set(path, (this.#users.get(path) ?? 0) + 1)
      if (await isSubmount(path)) held.push(path)
      else this.#forget(path)
    }
    return {
      [Symbol.asyncDispose]: async () => {
        for (const path of held.toReversed()) await this.#release(path)
      },
    }
  }

  async #release(path: string): Promise<void> {
    try {
      // virtiofsd answers in order, and this has to be answered: so was what was closed before.
      await statfs(path)
    } catch {
      // The share is gone, and all that is in it.
    }
    if (this.#forget(path) > 0) return
    try {
      this.#mounts.unmount(path, true)
    } catch {
      // As above.
    }
  }

  /** Answers how many hold it still. */
  #forget(path: string): number {
    const users = (this.#users.get(path) ?? 0) - 1
    if (users > 0) this.#users.set(path, users)
    else this.#users.delete(path)
    return users
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
