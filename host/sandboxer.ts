/** The sandboxer put together: this and main.ts are the only files that know everyone. */
import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import type { Log, LogLevel } from '#shared/log.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { grpcHandlers, serveGrpc } from '#shared/rpc/grpc-server.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import manifest from '../package.json' with { type: 'json' }
import { createAdmin } from './api/admin.ts'
import { createController } from './api/controller.ts'
import { createGuestLinks } from './api/host-service.ts'
import { bindBackends } from './backends/index.ts'
import type { Config } from './config/config.ts'
import { createPreparer } from './container/prepare.ts'
import { createContainerd } from './containerd/client.ts'
import { createForwards } from './forward/forwards.ts'
import { AgentLink } from './link/agent.ts'
import { parseMetricsAddress } from './config/metrics.ts'
import { lockStateDir } from './lock.ts'
import { createMetrics, type Metrics } from './metrics/metrics.ts'
import { beat } from './sandbox/beat.ts'
import { pulse } from './sandbox/pulse.ts'
import { hierarchies } from './sandbox/cgroup.ts'
import { recover } from './sandbox/recover.ts'
import { Sandboxes } from './sandbox/sandboxes.ts'
import type { SandboxServices } from './sandbox/services.ts'
import { DirectoryStore, type RecordStore } from './sandbox/store.ts'
import { defaultSize, type Sizing } from './sandbox/plan.ts'
import { undo } from './sandbox/undo.ts'
import { WarmPool } from './sandbox/warm-pool.ts'

export interface SandboxerOptions {
  readonly config: Config
  /** For errors */
  readonly configFile: string
  readonly log: Log
  readonly logLevel: () => LogLevel
  /** Stands between the ledgers and the disk, for tests of crashes */
  readonly store?: (store: RecordStore) => RecordStore
}

export interface Sandboxer {
  /** Ends what serves nobody yet, within seconds; at once when there is nothing. Everything else is left as it is. */
  close(): Promise<void>
}

const backendDependencies = () => ({ rpc: loadServices(loadProtos()), os: createNativeOs() })

/** Errors: INVALID_ARGUMENT for a table that no backend takes, as `startSandboxer` has them. */
export function checkBackends(config: Config, configFile: string): void {
  bindBackends(config.backends, configFile, backendDependencies())
}

/** Recovers, then serves until the process ends: every connection and every guest's link dies with it, no pod's guest does. */
export async function startSandboxer({ config, configFile, log, logLevel, store: wrap = (store) => store }: SandboxerOptions): Promise<Sandboxer> {
  const { rpc, os } = backendDependencies()
  const instance = randomUUID()
  const { state_dir: stateDir } = config.sandboxer
  const backends = bindBackends(config.backends, configFile, { rpc, os })
  const sandboxesDir = join(stateDir, 'sandboxes')
  await mkdir(sandboxesDir, { recursive: true, mode: 0o700 })
  await lockStateDir(stateDir)
  for (const [name, backend] of backends) {
    // What is missing may come; what runs already must be adopted in any case. A start will say what it lacks.
    const at = log.with({ backend: name })
    await backend.probe(at).catch((error: unknown) => at.error('the backend cannot start sandboxes on this machine', { error }))
  }

  const sizing: Sizing = {
    vcpus: config.guest.vcpus,
    memoryMiB: config.guest.memory_mib,
    memoryMiBMin: config.guest.memory_mib_min,
    reserveMiB: config.guest.reserve_mib,
    machine: { cpus: availableParallelism(), memoryMiB: Math.floor(totalmem() / 1024 / 1024) },
  }
  const wanted = new Map(Object.entries(config.backends).map(([name, table]) => [name, table.warm]))
  const metrics = createMetrics({ backends: wanted, version: manifest.version })
  const warm = new WarmPool({
    wanted,
    size: defaultSize(sizing),
    cgroupParent: config.sandboxer.cgroup_parent,
  })
  const containerd = createContainerd({ socketPath: config.containerd.address, namespace: config.containerd.namespace, rpc })
  const forwards = createForwards(os.localhost)
  const services: SandboxServices = {
    sandboxesDir,
    namespace: config.containerd.namespace,
    bootId: (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim(),
    store: metrics.store(wrap(await DirectoryStore.open(join(stateDir, 'ledger')))),
    undo,
    mounts: os.mounts,
    cgroupRoots: await hierarchies(),
    backend: (name) => backends.get(name),
    links: createGuestLinks(rpc, instance, log, { onCall: metrics.onGuestCall, onRefused: metrics.onGuestRefused }),
    forwards,
    agent: (dial) => new AgentLink(dial, rpc, instance),
    preparer: createPreparer({ containerd, mounts: os.mounts, containerdStateDir: config.containerd.state_dir }),
    containerd,
    warm,
    limits: {
      startMs: config.limits.start_ms,
      stopGraceMs: config.limits.stop_grace_ms,
      stopMs: config.limits.stop_ms,
      adoptMs: config.limits.adopt_ms,
      beatMs: config.limits.beat_ms,
      settleMs: config.limits.settle_ms,
      busyMs: config.limits.busy_ms,
    },
    logLevel,
    log,
    observer: metrics.observer,
  }
  const sandboxes = new Sandboxes(services)
  metrics.watch({ sandboxes, warm, forwards })
  // Before anything is adopted: an address that cannot be had costs nobody anything.
  await listenForScrapes(config, configFile, metrics)
  const left = await recover(sandboxes, services, config.limits.adopt_parallel)

  const controller = createController({
    rpc,
    sandboxes,
    namespace: config.containerd.namespace,
    sizing,
    cgroupParent: config.sandboxer.cgroup_parent,
  })
  // containerd's socket last: whoever can reach it finds the whole daemon there.
  await listen(config.sandboxer.admin, [grpcHandlers(rpc.admin, createAdmin(sandboxes, warm, metrics.text, config.sandboxer.debug), metrics.onCall)])
  await listen(config.sandboxer.listen, [grpcHandlers(rpc.controller, controller, metrics.onCall)])
  const forever = new AbortController().signal
  beat(sandboxes, services, (signal) => metrics.presence(containerd.connections(signal)), forever).catch((error: unknown) => log.error('the beat has stopped', { error }))
  pulse(sandboxes, log, forever).catch((error: unknown) => log.error('the pulse has stopped', { error }))
  log.info('sandboxer serves', { listen: config.sandboxer.listen, backends: [...backends.keys()], sandboxes: sandboxes.all.length })
  warm.begin(services, left)
  return warm
}

/** Node's HTTP server takes more than a MiB, so only those load it who want one. */
async function listenForScrapes(config: Config, configFile: string, metrics: Metrics): Promise<void> {
  const address = parseMetricsAddress(config.metrics.address)
  if (address === undefined) return
  const { serveMetrics } = await import('./metrics/listener.ts')
  await serveMetrics(address, `${configFile}: metrics.address`, metrics)
}

/** A socket file left behind belongs to nobody: the state directory is locked. */
async function listen(path: string, services: Parameters<typeof serveGrpc>[1]): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await rm(path, { force: true })
  await serveGrpc(path, services)
}
