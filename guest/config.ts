/** Where things are, and how much of everything there may be. One object, so that tests can point elsewhere. */
import { RuntimeError } from '#shared/errors.ts'
import { FORWARD_PORT } from '#shared/forward/frame.ts'
import { LINK_PORT } from '#shared/link-port.ts'
import { asObject } from './container/oci.ts'
import type { InputPolicy } from './streams/input.ts'
import type { OutputPolicy } from './streams/output.ts'

/** Names a JSON object of `Paths` and `Endpoints` fields that replace the defaults below. */
export const CONFIG_ENV = 'KUASAR_AGENT_CONFIG'

export interface Paths {
  /** Bundles, pod files and storages are below it. */
  readonly run: string
  /** The cgroup v2 mount. */
  readonly cgroupRoot: string
  /** The pod's cgroup, below the root. */
  readonly podCgroup: string
  readonly crun: string
  /** Makes a PID namespace and stays its first process, which reaps and sleeps. */
  readonly pause: readonly string[]
  /** Kernel parameters. */
  readonly sysctl: string
  /** How many huge pages of 2 MiB the kernel sets aside (Documentation/admin-guide/mm/hugetlbpage.rst). */
  readonly hugepages: string
  /** What the kernel has free, by which the pod's memory is bounded. Empty: it is not (outside a VM). */
  readonly meminfo: string
}

/** "vsock:1024", or "unix:/path" of a hybrid vsock's socket. */
export interface Endpoints {
  /** Where containerd and the sandboxer call the agent. */
  readonly listen: string
  /** Where the agent calls the sandboxer. */
  readonly host: string
  /** Where the sandboxer opens forwarded connections. */
  readonly forward: string
}

export interface GuestConfig {
  readonly paths: Paths
  readonly endpoints: Endpoints
  /** The descriptor PID 1 writes exits to. */
  readonly exitsFd: number
  readonly logLevel: string
}

export const defaultConfig: GuestConfig = {
  paths: {
    run: '/run/kuasar',
    cgroupRoot: '/sys/fs/cgroup',
    podCgroup: '/pod',
    crun: '/usr/bin/crun',
    pause: ['/sbin/init', 'pause'],
    sysctl: '/proc/sys',
    hugepages: '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages',
    meminfo: '/proc/meminfo',
  },
  endpoints: { listen: 'vsock:1024', host: `vsock:${LINK_PORT}`, forward: `vsock:${FORWARD_PORT}` },
  exitsFd: 3,
  logLevel: 'info',
}

/** The defaults with the fields of KUASAR_AGENT_CONFIG over them. Throws INVALID_ARGUMENT naming a field it does not know. */
export function configFrom(env: NodeJS.ProcessEnv): GuestConfig {
  const text = env[CONFIG_ENV]
  if (text === undefined || text === '') return defaultConfig
  const changes = asObject(JSON.parse(text))
  return {
    ...merge(defaultConfig, without(changes, ['paths', 'endpoints']), CONFIG_ENV),
    paths: merge(defaultConfig.paths, asObject(changes['paths']), `${CONFIG_ENV}.paths`),
    endpoints: merge(defaultConfig.endpoints, asObject(changes['endpoints']), `${CONFIG_ENV}.endpoints`),
  }
}

function merge<T extends object>(defaults: T, changes: Record<string, unknown>, at: string): T {
  const known = new Map<string, unknown>(Object.entries(defaults))
  for (const [key, value] of Object.entries(changes)) {
    const before = known.get(key)
    const alike = before !== undefined && typeof value === typeof before && Array.isArray(value) === Array.isArray(before)
    if (!alike) {
      const expected = before === undefined ? `one of ${[...known.keys()].join(', ')}` : `a value like ${JSON.stringify(before)}`
      throw new RuntimeError('INVALID_ARGUMENT', `${at}.${key} = ${JSON.stringify(value)}: expected ${expected}`)
    }
  }
  return { ...defaults, ...changes }
}

function without(value: Record<string, unknown>, keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key)))
}

/** A container's own output: containerd always comes back for it. */
export const initOutput: OutputPolicy = {
  bufferBytesMax: 256 * 1024,
  settledMs: 30_000,
  inheritedMs: 2000,
  stalledMs: 30_000,
  abandonedMs: undefined,
}

/** An exec's output: containerd forgets execs when it restarts. */
export const execOutput: OutputPolicy = { ...initOutput, abandonedMs: 10_000 }

export const initInput: InputPolicy = { overtakenMs: 2000, abandonedMs: undefined }
export const execInput: InputPolicy = { overtakenMs: 2000, abandonedMs: 10_000 }
