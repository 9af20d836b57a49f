/**
 * The directory a guest shares with the host, and why a guest cannot turn it against the host.
 *
 *   <dir>/skeleton    plain directory: empty directories and files that containers' mounts cover
 *   <dir>/shared      the same directory bound once more, read-only and MS_SHARED: what virtiofsd serves
 *   <dir>/staging     a private mount where a bind is finished before it appears in `shared`
 *
 * virtiofsd is root on the host, so whatever it could rename or replace, a hostile guest could: a directory swapped
 * for a symlink under a path the host is about to mount on would select a host path. Through a read-only mount it can
 * change nothing; only what is mounted below (a container's own root, a writable volume) is writable, and no path the
 * host walks ever leads through those. The host makes entries by way of `skeleton`, and removes them there too: the
 * mounts hang on `shared`, so a removal can never reach into a volume.
 *
 * It is served twice, by two virtiofsd: once for volumes, which change on the host at any time and of which a guest must
 * not believe what it has read, and once for roots, which only the guest writes and may therefore cache.
 *
 * `shared` is a peer group of its own, so what is mounted below reaches their mount namespaces (slaves of this one)
 * and nothing else. What is mounted below a volume stays in theirs alone, see `host/container/mounter.ts`. Source:
 * mount_namespaces(7).
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Mounts } from '#shared/os/contract.ts'
import type { Ownership } from './ownership.ts'

/** Where the guest mounts it. */
export const GUEST_SHARED_DIR = '/run/kuasar/shared'
/** Where it mounts it once more, for the containers' roots in it. */
export const GUEST_ROOTS_DIR = '/run/kuasar/roots'

/** Holds the volumes that containers of the pod have in common. No container's id begins with "_". */
export const VOLUMES_DIR = '_volumes'

export interface Share {
  /** What the guest sees; nobody can create anything in it. */
  readonly sharedDir: string
  /** The same entries, writable, host only. */
  readonly skeletonDir: string
  /** Holds a mount point of each kind, `directory` and `file`. Undefined where nobody but the host sees the share. */
  readonly stagingDir: string | undefined
}

/** The share of a guest with a kernel of its own. */
export function shareAt(sharedDir: string): Share & { readonly stagingDir: string } {
  const dir = dirname(sharedDir)
  return { sharedDir, skeletonDir: join(dir, 'skeleton'), stagingDir: join(dir, 'staging') }
}

/** A plain directory, for a backend whose containers run on the host's own kernel: it has nobody to be kept from. */
export const plainShare = (sharedDir: string): Share => ({ sharedDir, skeletonDir: sharedDir, stagingDir: undefined })

/** Makes the share of a new sandbox; `dirname(sharedDir)` exists and is nobody else's. Undone with its owner. */
export async function openShare(sharedDir: string, ownership: Ownership, mounts: Mounts): Promise<Share> {
  const share = shareAt(sharedDir)
  const directories = [share.skeletonDir, share.sharedDir, share.stagingDir]
  await ownership.acquireAll(
    [
      ...directories.map((path) => ({ kind: 'directory', path }) as const),
      { kind: 'mount', target: share.sharedDir },
      { kind: 'mount', target: share.stagingDir },
    ],
    async () => {
      for (const path of directories) await mkdir(path, { recursive: true, mode: 0o755 })
      await mkdir(join(share.stagingDir, 'directory'), { recursive: true })
      await writeFile(join(share.stagingDir, 'file'), '')
      // Private before shared: a bind of a shared mount would otherwise stay in its source's peer group.
      mounts.mount({ source: share.skeletonDir, target: share.sharedDir, type: '', options: ['bind', 'ro', 'nosuid', 'nodev', 'private'] })
      mounts.mount({ source: 'none', target: share.sharedDir, type: '', options: ['shared'] })
      mounts.mount({ source: share.stagingDir, target: share.stagingDir, type: '', options: ['bind', 'private'] })
    },
  )
  return share
}
