/** Stock containerd's configuration in a node: the stock defaults, and what an external sandboxer needs. */

import { readFileSync } from 'node:fs'
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { stringify } from 'smol-toml'
import { connectCri, type Cri } from '#test/cri/client.ts'
import { images } from '#test/images/catalog.ts'
import { cniConfig, type CniNetwork, scriptPlugin } from './cni.ts'
import type { TestNode } from './node.ts'
import { podCgroups } from './pod-cgroup.ts'
import { inside } from './paths.ts'
import { poll } from './poll.ts'
import type { Service, ServiceExit } from './service.ts'

export interface ContainerdOptions {
  /** By its path inside. Default: what KUASAR_NODE_CONTAINERD names, or else Debian's. */
  readonly program?: string
  /** Default `info`. */
  readonly logLevel?: 'trace' | 'debug' | 'info' | 'warn' | 'error'
  /** The runtime handlers that are sandboxers behind one socket. Default `kuasar-qemu` and `kuasar-fake`. */
  readonly sandboxers?: readonly string[]
  /** What pods have that name no runtime class. Default `runc`. */
  readonly defaultRuntime?: string
  /** Handlers that are others by another name: name → handler. */
  readonly aliases?: Readonly<Record<string, string>>
  /** `fifo` only shows what containerd and the sandboxer make of the unsupported kind. Default `streaming`. */
  readonly ioType?: 'streaming' | 'fifo'
  /** Hands limits of huge pages on, which containerd does not by default. */
  readonly hugepages?: boolean
  /** Default overlayfs. */
  readonly snapshotter?: 'overlayfs' | 'native' | 'erofs'
  /** Directory of hosts.toml files that say how registries are reached. Default: as their names say. */
  readonly registryHosts?: string
  /** `process.rlimits` of every sandboxed container's spec: containerd has them from a base spec, and CRI names none. */
  readonly rlimits?: readonly { readonly type: string; readonly soft: number; readonly hard: number }[]
  /** What pods are connected to. Default: a bridge. */
  readonly network?: CniNetwork
  /** Default: longer than a guest that does not answer can hold CRI up, which is 100 s. */
  readonly readyMsMax?: number
}

/** CRI's streaming server (exec, attach, port-forward) listens here; every node has a network of its own. */
export const streamPort = 10_010

/** Debian's containerd, by its path inside. */
export const debianContainerd = '/usr/bin/containerd'

/** The handlers a node offers beside `runc`. */
export const sandboxers = ['kuasar-qemu', 'kuasar-fake'] as const

export const containerdConfigPath = '/etc/containerd/config.toml'
const baseSpecPath = '/etc/containerd/base-spec.json'
export const cniConfigPath = '/etc/cni/net.d/10-node.conflist'

/** The stub shim, one for every runtime. */
const shim = 'host/shim/containerd-shim-kuasar'

/** Snapshotters and differs that need a device, a file system or a kernel module no node has. */
const absentPlugins = ['blockfile', 'btrfs', 'devmapper', 'zfs'].map((name) => `io.containerd.snapshotter.v1.${name}`)

/** config.toml, version 3. */
export function containerdConfig(options: ContainerdOptions = {}): string {
  const names = options.sandboxers ?? sandboxers
  const runtime = (name: string) => ({
    runtime_type: `io.containerd.${name}.v1`,
    sandboxer: name,
    io_type: options.ioType ?? 'streaming',
    privileged_without_host_devices: true,
    pod_annotations: ['io.kuasar.*'],
    ...(options.rlimits === undefined ? {} : { base_runtime_spec: baseSpecPath }),
  })
  const runtimes: Readonly<Record<string, object>> = {
    runc: { runtime_type: 'io.containerd.runc.v2', sandboxer: 'podsandbox', pod_annotations: ['io.kuasar.*'] },
    ...Object.fromEntries(names.map((name) => [name, runtime(name)])),
  }
  const aliases = Object.entries(options.aliases ?? {}).map(([alias, name]) => [alias, runtimes[name] ?? {}])
  return stringify({
    version: 3,
    disabled_plugins: absentPlugins,
    debug: { level: options.logLevel ?? 'info' },
    proxy_plugins: Object.fromEntries(
      names.map((name) => [name, { type: 'sandbox', address: inside.sandboxerSocket }]),
    ),
    plugins: {
      'io.containerd.cri.v1.images': {
        snapshotter: options.snapshotter ?? 'overlayfs',
        pinned_images: { sandbox: images.pause },
        registry: { config_path: options.registryHosts ?? '' },
      },
      'io.containerd.cri.v1.runtime': {
        restrict_oom_score_adj: !mayLowerOomScore(),
        disable_hugetlb_controller: options.hugepages !== true,
        containerd: {
          default_runtime_name: options.defaultRuntime ?? 'runc',
          runtimes: { ...runtimes, ...Object.fromEntries(aliases) },
        },
      },
      'io.containerd.grpc.v1.cri': { stream_server_address: '127.0.0.1', stream_server_port: String(streamPort) },
    },
  })
}

/** Without CAP_SYS_RESOURCE (capabilities(7), 24) runc dies on the -998 that containerd gives a pod's first process. */
function mayLowerOomScore(): boolean {
  const effective = /^CapEff:\s+(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  return (BigInt(`0x${effective}`) & (1n << 24n)) !== 0n
}

export interface Containerd extends AsyncDisposable {
  /** Connected to this containerd, over restarts. */
  readonly cri: Cri
  /** The process that runs now, or ran last. */
  readonly service: Service
  stop(signal?: NodeJS.Signals): Promise<ServiceExit>
  /** Starts it again after stop, with these options if given. Resolves when CRI is ready. */
  start(options?: ContainerdOptions): Promise<void>
  restart(signal?: NodeJS.Signals): Promise<void>
  /** Connects the pods to come to another network. Resolves when containerd has taken it up. */
  setNetwork(network: CniNetwork): Promise<void>
}

const readyMsDefault = 150_000

/** Starts containerd in a node and waits until CRI is ready. */
export async function startContainerd(node: TestNode, options: ContainerdOptions = {}): Promise<Containerd> {
  await writeFile(node.path(cniConfigPath), cniConfig(options.network))
  const cri = connectCri(node.path(inside.containerdSocket), {
    readFile: (path) => readFile(node.path(path), 'utf8'),
    forward: (port) => node.forward(port),
    cgroups: podCgroups(node),
  })
  let current = options
  const start = async () => {
    await linkInto(node, current.program ?? process.env['KUASAR_NODE_CONTAINERD'] ?? debianContainerd, current.sandboxers ?? sandboxers)
    if (current.rlimits !== undefined) await writeFile(node.path(baseSpecPath), await baseSpec(node, current.rlimits))
    await writeFile(node.path(containerdConfigPath), containerdConfig(current))
    return node.start({ name: 'containerd', command: 'containerd', args: [], ready: () => criReady(cri), readyMsMax: current.readyMsMax ?? readyMsDefault })
  }
  let service = await start()
  const containerd: Containerd = {
    cri,
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
    async setNetwork(network) {
      await writeFile(node.path(cniConfigPath), cniConfig(network))
      await networkTaken(cri, network)
    },
    async [Symbol.asyncDispose]() {
      cri.close()
      await service.stop()
    },
  }
  return containerd
}

/** containerd's own default, and these. */
async function baseSpec(node: TestNode, rlimits: NonNullable<ContainerdOptions['rlimits']>): Promise<string> {
  const spec: { readonly process: object } = JSON.parse(await node.run('ctr', ['oci', 'spec']))
  return JSON.stringify({ ...spec, process: { ...spec.process, rlimits } })
}

/** The conditions that CRI says a kubelet waits for. containerd adds its own, of deprecated things: from 2.2 on cgroup v1 is one. */
const readyConditions = ['RuntimeReady', 'NetworkReady']

async function criReady(cri: Cri): Promise<boolean> {
  try {
    const { status } = await cri.runtime.Status({}, { timeoutMs: 1000 })
    const met = new Set(status?.conditions.filter((condition) => condition.status).map(({ type }) => type))
    return readyConditions.every((type) => met.has(type))
  } catch {
    return false
  }
}

/** Resolves when containerd has taken up a network that was written to `cniConfigPath`. */
export async function networkTaken(cri: Cri, network: CniNetwork): Promise<void> {
  const taken = await poll(readyMsDefault, async () => ((await cniOf(cri)) === cniConfig(network) ? true : undefined))
  if (taken !== true) throw new Error(`containerd has not taken up the network:\n${await cniOf(cri)}`)
}

/** The network's configuration, as containerd last read it. */
async function cniOf(cri: Cri): Promise<string> {
  const { info } = await cri.runtime.Status({ verbose: true })
  const { Networks: networks }: { readonly Networks?: readonly { readonly Config: { readonly Source: string } }[] } = JSON.parse(info['cniconfig'] ?? '{}')
  return networks?.at(-1)?.Config.Source ?? ''
}

/**
 * Puts in place: containerd, before Debian's on PATH, for whoever asks its version; the stub shim under each runtime's name, which
 * containerd looks up when it restarts; the tests' CNI plugin; and all such plugins where any containerd but Debian's looks for them.
 */
async function linkInto(node: TestNode, program: string, sandboxerNames: readonly string[]): Promise<void> {
  const links = [
    ['/usr/local/bin/containerd', program] as const,
    ...sandboxerNames.map((name) => [`/usr/local/bin/containerd-shim-${name}-v1`, `${inside.checkout}/${shim}`] as const),
    [`/usr/lib/cni/${scriptPlugin}`, `${inside.checkout}/test/node/cni-script.ts`] as const,
    ['/opt/cni/bin', '/usr/lib/cni'] as const,
  ]
  for (const [path, target] of links) {
    const link = node.path(path)
    await mkdir(dirname(link), { recursive: true })
    await rm(link, { force: true })
    await symlink(target, link)
  }
}
