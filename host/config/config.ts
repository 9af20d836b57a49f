/** The sandboxer's configuration: its shape, its defaults, and how a file becomes one. */
import { readFile } from 'node:fs/promises'
import { parse } from 'smol-toml'
import { z } from 'zod'
import { RuntimeError, explain } from '#shared/errors.ts'
import { logLevels } from '#shared/log.ts'
import { metrics } from './metrics.ts'
import { parseTable } from './table.ts'

/** Where the configuration is looked for when none is named. It need not exist. */
export const CONFIG_PATH = '/etc/kuasar/config.toml'

/** Paths that end up in a unix socket's address or in containerd's endpoint, which knows no `:`. */
const path = z.string().refine((text) => /^\/[^:\0]*$/.test(text), 'an absolute path without ":"')
const millis = (fallback: number) => z.int().min(1).max(3_600_000).default(fallback)

const sandboxer = z.strictObject({
  /** Socket of containerd's Controller service, named in `[proxy_plugins.*]` */
  listen: path.default('/run/kuasar/sandboxer.sock'),
  /** Socket of kuasarctl, mode 0600 */
  admin: path.default('/run/kuasar/admin.sock'),
  /** Ledgers and sandbox directories; on a tmpfs, for what it describes does not survive a boot either */
  state_dir: path.default('/run/kuasar'),
  log_level: z.enum(logLevels).default('info'),
  /** Parent cgroup of pods whose configuration names none */
  cgroup_parent: path.default('/kuasar'),
  /** Whether kuasarctl may run code in guests' agents, and read their heaps */
  debug: z.boolean().default(false),
})

const containerd = z.strictObject({
  address: path.default('/run/containerd/containerd.sock'),
  namespace: z.string().min(1).default('k8s.io'),
  state_dir: path.default('/run/containerd'),
})

const limits = z.strictObject({
  /** For the launch, and as long again until the agent's Ready, in ms */
  start_ms: millis(180_000),
  /** What containers get between TERM and KILL when a pod is stopped, in ms */
  stop_grace_ms: millis(2_000),
  /** What the agent gets to answer Shutdown beyond the grace, in ms; the VMM is killed afterwards */
  stop_ms: millis(10_000),
  /** What an agent gets to prove it lives when its sandbox is adopted, in ms */
  adopt_ms: millis(8_000),
  /** Between two rounds of reconciliation, clock synchronisation and heartbeat, in ms */
  beat_ms: millis(30_000),
  /** How long a difference to containerd must last before it is acted on, in ms: more than any create takes */
  settle_ms: millis(10_000),
  /** What the agent gets to answer a heartbeat while its VMM uses CPU time, in ms */
  busy_ms: millis(120_000),
  /** Sandboxes adopted at the same time */
  adopt_parallel: z.int().min(1).max(256).default(16),
})

const guest = z.strictObject({
  /** Processors of a VM whose pod sets no CPU limit */
  vcpus: z.int().min(1).max(256).default(1),
  /** Memory of a VM whose pod sets no memory limit, in MiB */
  memory_mib: z.int().min(128).default(512),
  /** The least a guest boots with, in MiB */
  memory_mib_min: z.int().min(64).default(256),
  /** Added to a pod's memory limit for the guest's kernel and agent, in MiB */
  reserve_mib: z.int().min(0).default(160),
})

/** More idle VMs than that, of any size, are a mistake. */
const WARM_MAX = 64

/** A backend's own keys are checked by the backend. */
const backend = z.looseObject({
  kind: z.string().min(1),
  /** VMs of the default size that are booted before their pods */
  warm: z.int().min(0).max(WARM_MAX).default(0),
})

/** Names containerd keeps for itself, so a proxy plugin may not carry them. */
const reserved = new Set(['shim', 'podsandbox'])

const backends = z.record(
  z.string().refine((name) => /^[a-z0-9][a-z0-9.-]*$/.test(name) && !reserved.has(name), {
    message: 'a sandboxer name: a-z 0-9 . - and neither "shim" nor "podsandbox", which containerd keeps for itself',
  }),
  backend,
)

export const schema = z.strictObject({
  sandboxer: sandboxer.prefault({}),
  containerd: containerd.prefault({}),
  limits: limits.prefault({}),
  guest: guest.prefault({}),
  metrics: metrics.prefault({}),
  /** Sandboxer name, as containerd sends it → how its sandboxes are made */
  backends: backends.default({ 'kuasar-qemu': { kind: 'qemu', warm: 0 } }),
})

export type Config = z.output<typeof schema>

/** Errors: INVALID_ARGUMENT naming the file, the key, the value and what was expected. */
export function parseConfig(text: string, file: string): Config {
  let raw: unknown
  try {
    raw = parse(text)
  } catch (error) {
    throw new RuntimeError('INVALID_ARGUMENT', `${file}: not TOML: ${explain(error).trim()}`, { cause: error })
  }
  return parseTable(schema, raw, `${file}:`)
}

/** A file that was asked for must exist; the usual one need not. */
export async function loadConfig(file: string | undefined): Promise<Config> {
  const at = file ?? CONFIG_PATH
  let text: string
  try {
    text = await readFile(at, 'utf8')
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
    if (missing && file === undefined) return parseConfig('', at)
    throw new RuntimeError('NOT_FOUND', `cannot read the configuration ${at}: ${explain(error)}`, { cause: error })
  }
  return parseConfig(text, at)
}
