/**
 * The mounts that virtiofsd announces below the share (a container's root, its volumes) are made by the guest's kernel
 * when somebody's path leads into them, and only in that process's mount namespace. Were that the container's alone, such
 * a mount would end with the container's last process, before virtiofsd has heard that the files of that process are
 * closed; and for a mount below a share Linux does not wait for that (virtio_kill_sb, 6.1): "VFS: Busy inodes after
 * unmount", a BUG, and a process that never ends. So the agent enters first, and leaves last.
 */
import { stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Mounts } from '#shared/os/contract.ts'

/** f_type of every fuse file system. Source: linux/magic.h. */
const FUSE = 0x65735546

/** Those of `paths` that are mounts of the share. Released, they are gone from this namespace. */
export async function holdSubmounts(mounts: Mounts, paths: readonly string[]): Promise<AsyncDisposable> {
  const held: string[] = []
  for (const path of new Set(paths)) if (await isSubmount(path)) held.push(path)
  return {
    async [Symbol.asyncDispose]() {
      for (const path of held.toReversed()) {
        try {
          // virtiofsd answers in order, and this has to be answered: so was what was closed before.
          await statfs(path)
          mounts.unmount(path, true)
        } catch {
          // The share is gone, and all that is in it.
        }
      }
    },
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
