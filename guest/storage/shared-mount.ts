/**
 * A mount that containers share, by a descriptor of its root: what a container mounts over that root has its path, in the
 * agent's namespace too, and may be a file system that never answers.
 */
import { closeSync, constants, openSync } from 'node:fs'
import type { Mounts } from '#shared/os/contract.ts'

/** open(2): a descriptor that only stands for the path. */
const O_PATH = 0o10000000

export class SharedMount {
  readonly #fd: number

  /** Nothing may have been mounted over it yet. From here on it has peers: every copy that is not made private. */
  constructor(mounts: Mounts, target: string) {
    this.#fd = openSync(`${target}/.`, O_PATH | constants.O_DIRECTORY)
    try {
      mounts.mount({ source: '', target, type: '', options: ['shared'] })
    } catch (error) {
      closeSync(this.#fd)
      throw error
    }
  }

  /** Leads to its root, whatever lies over it. */
  get path(): string {
    return `/proc/self/fd/${this.#fd}/.`
  }

  /** Takes it from this namespace with all that lies on it; what lies on it goes from the peers as well. */
  unmount(mounts: Mounts): void {
    try {
      mounts.unmount(this.path, true)
    } finally {
      closeSync(this.#fd)
    }
  }
}
