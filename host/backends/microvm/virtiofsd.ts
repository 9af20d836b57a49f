/** virtiofsd: serves one sandbox's shared directory to its guest, nothing else. */
import type { Command } from './driver.ts'

/**
 * What a guest may believe without asking again. "auto": attributes and names for 1 s, and data only while a file is
 * open, for the host changes it too. "always": everything for a day, for nobody else does.
 */
export type CachePolicy = 'auto' | 'always'

export interface VirtiofsdOptions {
  readonly path: string
  readonly sharedDir: string
  readonly socket: string
  readonly cache: CachePolicy
}

export function virtiofsdCommand({ path, sharedDir, socket, cache }: VirtiofsdOptions): Command {
  return {
    file: path,
    args: [
      `--shared-dir=${sharedDir}`,
      `--socket-path=${socket}`,
      // pivot_root into the share, empty network, own pid namespace, seccomp, few capabilities. The mount namespace is
      // a slave of the host's, so mounts made below the share later appear in it, and go.
      '--sandbox=namespace',
      '--seccomp=kill',
      `--cache=${cache}`,
      // Each mount below the share is a mount in the guest too: without it, two files of two mounts may share an inode.
      '--announce-submounts',
      // No O_PATH descriptor per file the guest has ever looked up: neither descriptors nor unmounted volumes pile up.
      '--inode-file-handles=prefer',
      // File capabilities and the whiteouts of overlays made in the guest.
      '--xattr',
      '--log-level=error',
    ],
  }
}
