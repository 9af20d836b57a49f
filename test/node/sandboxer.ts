/** The sandboxer in a node, as its own service: it may die and come back while pods run on. */

import { mkdir, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { stringify } from 'smol-toml'
import type { TestNode } from './node.ts'
import { inside } from './paths.ts'
import type { Service, ServiceExit } from './service.ts'

export interface SandboxerOptions {
  /** Tables of the sandboxer's configuration file. Default: `sandboxerConfig`. */
  readonly config?: Readonly<Record<string, unknown>>
  readonly env?: Readonly<Record<string, string>>
  readonly readyMsMax?: number
}

export interface Sandboxer extends AsyncDisposable {
  /** The process that runs now, or ran last. */
  readonly service: Service
  stop(signal?: NodeJS.Signals): Promise<ServiceExit>
  /** Starts it again after stop, with these options if given. */
  start(options?: SandboxerOptions): Promise<void>
  restart(signal?: NodeJS.Signals): Promise<void>
}

/** Both handlers of the node's containerd; the microVM boots the image of this checkout. */
export const sandboxerConfig = {
  backends: {
    'kuasar-qemu': {
      kind: 'qemu',
      kernel: `${inside.checkout}/build/image/vmlinux`,
      initramfs: `${inside.checkout}/build/image/initramfs.cpio`,
      rootfs: `${inside.checkout}/build/image/rootfs.erofs`,
    },
    'kuasar-fake': { kind: 'fake' },
  },
} as const

export const sandboxerConfigPath = '/etc/kuasar/config.toml'

/** The sandboxer listens only once it has adopted what lives, so this holds a wait for many guests. */
const readyMsDefault = 60_000

/** Starts `host/main.ts` and waits until its socket takes connections. */
export async function startSandboxer(node: TestNode, options: SandboxerOptions = {}): Promise<Sandboxer> {
  let current = options
  const start = async () => {
    await mkdir(node.path('/etc/kuasar'), { recursive: true })
    await writeFile(node.path(sandboxerConfigPath), stringify(current.config ?? sandboxerConfig))
    return node.start({
      name: 'sandboxer',
      command: 'node',
      // As the unit in docs/containerd.md starts it.
      args: ['--max-semi-space-size=4', `${inside.checkout}/host/main.ts`, '--config', sandboxerConfigPath],
      env: current.env ?? {},
      ready: () => listens(node.path(inside.sandboxerSocket)),
      readyMsMax: current.readyMsMax ?? readyMsDefault,
    })
  }
  let service = await start()
  return {
    get service() {
      return service
    },
    stop: (signal) => service.stop(signal),
    async start(again = current) {
      current = again
      service = await start()
    },
    async restart(signal) {
      await service.stop(signal)
      service = await start()
    },
    async [Symbol.asyncDispose]() {
      await service.stop()
    },
  }
}

/** A socket file may be left from a run before; only a connection proves that somebody listens. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
