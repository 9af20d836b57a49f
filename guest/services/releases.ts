/**
 * Gives containers back to the sandboxer. A deletion waits for that only as long as containerd's patience allows: a
 * sandboxer that is away must not keep an exit code from the kubelet, so what is left goes on by itself until the
 * sandboxer is back.
 */

/** containerd gives the whole of Delete 10 s (containerd-contract, section 3); a release takes milliseconds. */
const DELETE_WAIT_MS_MAX = 3_000

export interface ReleasesOptions {
  /** The call itself; settles when the sandboxer has answered, however long it is away. */
  readonly release: (containerId: string, sources: readonly string[]) => Promise<void>
  /** True while the sandboxer can be called. */
  readonly up: () => boolean
  /** Told of a failure that nobody waited for. */
  readonly failed: (containerId: string, error: unknown) => void
}

export class Releases {
  readonly #options: ReleasesOptions
  readonly #underWay = new Map<string, Promise<void>>()

  constructor(options: ReleasesOptions) {
    this.#options = options
  }

  /** Resolves when the container is given back, or will be once the sandboxer returns. Never rejects. */
  async release(containerId: string, sources: readonly string[]): Promise<void> {
    const { release, up, failed } = this.#options
    const released = release(containerId, sources)
      .catch((error: unknown) => failed(containerId, error))
      .finally(() => {
        // A create that failed while the sandboxer was away has released its container once more.
        if (this.#underWay.get(containerId) === released) this.#underWay.delete(containerId)
      })
    this.#underWay.set(containerId, released)
    if (!up()) return
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, DELETE_WAIT_MS_MAX)
    await Promise.race([released, late])
    clearTimeout(timer)
  }

  /** Resolves when no release of this container is under way: a new one of its name must not be taken for the old. */
  async settled(containerId: string): Promise<void> {
    await this.#underWay.get(containerId)
  }
}
