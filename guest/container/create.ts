/** From a container's id to a process that waits for its start. Acquire, and register the undo on the next line. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { RuntimeError } from '#shared/errors.ts'
import { Cgroup } from '../runtime/cgroup.ts'
import { type Container, endExecs } from './container.ts'
import { attempt, type ContainersContext, publish } from './context.ts'
import { fullOr } from './full.ts'
import { ProcessIo } from './io.ts'
import { parseSpec, type OciSpec } from './oci.ts'
import { OomWatch } from './oom.ts'
import type { PidNamespaceMode, PreparedContainer } from './ports.ts'
import { NEVER_RAN, Process } from './process.ts'
import { finalSpec } from './spec.ts'
import { planStdio, type Stdio } from './stdio.ts'

export interface CreateContainer {
  readonly id: string
  /** containerd's path of the bundle, echoed. */
  readonly bundle: string
  readonly stdio: Stdio
}

/**
 * Prepares, mounts and creates; the container waits for its start. On any error, and when `signal` aborts meanwhile, all
 * of it is undone. `isInit`: whether a pid is that of a running container's init.
 */
export async function createContainer(
  context: ContainersContext,
  request: CreateContainer,
  isInit: (pid: number) => boolean,
  signal: AbortSignal,
): Promise<Container> {
  const { id, stdio } = request
  const { preparer, storages, submounts, runtime, reaper, events, io: ioContext, initPolicy, log } = context
  const about = `container ${id}`
  const plan = planStdio(stdio, about)
  await using undo = new AsyncDisposableStack()

  const used: string[] = []
  undo.defer(() => attempt(context, `release ${about}`, preparer.release(id, used)))
  const prepared = await preparer.prepare(id)
  undo.use(await storages.acquire(prepared.storages))
  const { dir, command, oomScoreAdj, sources, shared } = await writeBundle(context, request, prepared, isInit, undo)
  used.push(...sources)
  undo.use(await submounts.hold(sources, shared))
  // Before the streams are bound: those that wait by now may be another containerd's.
  signal.throwIfAborted()
  const io = await ProcessIo.open(plan, ioContext, initPolicy)
  undo.defer(() => io.discard())

  const cgroup = new Cgroup(`${context.cgroupRoot}${cgroupOf(context, id)}`)
  const sinceNanos = context.bootTimeNanos()
  undo.defer(() => attempt(context, `delete ${about}`, runtime.delete(id, dir)))
  const pid = await runtime.create({ containerId: id, bundle: dir, fds: io.fds, consoleSocket: io.consoleSocket, command }).catch((failure: unknown) => {
    throw fullOr(failure, cgroup)
  })
  const crun = { beganNanos: sinceNanos, endedNanos: context.bootTimeNanos() }
  const exit = reaper.claim(pid, sinceNanos)
  await io.handedOver()
  signal.throwIfAborted()

  const oom = undo.use(new OomWatch(id, cgroup, events))
  const init = new Process(about, stdio, io, { pid, seenNanos: context.bootTimeNanos() }, {
    exited: async (ended) => {
      // Whoever shares the PID namespace outlives the init; the container does not.
      cgroup.kill()
      endExecs(container, { status: NEVER_RAN, atNanos: ended.atNanos })
      await oom.reported()
    },
    stopped: (_, ended) => publish(context, { kind: 'exit', containerId: id, id, pid, exit: ended }),
  })
  const container: Container = {
    id, bundle: request.bundle, dir, oomScoreAdj, init, cgroup, execs: new Map(), execsUnderWay: new Set(), undo: undo.move(),
  }
  void init.exit(exit)
  publish(context, { kind: 'create', containerId: id, bundle: request.bundle, stdio, pid, crun })
  log.debug('container created', { container: id, pid })
  return container
}

async function writeBundle(
  context: ContainersContext,
  { id, stdio }: CreateContainer,
  prepared: PreparedContainer,
  isInit: (pid: number) => boolean,
  undo: AsyncDisposableStack,
) {
  const dir = `${context.bundleRoot}/${id}`
  const spec = parseSpec(prepared.spec, `spec of container ${id}`)
  const pidNamespace = await pidNamespaceOf(context, id, prepared.pidNamespace, isInit)
  const final = finalSpec(spec, { ...context.spec, cgroupsPath: cgroupOf(context, id), terminal: stdio.terminal, pidNamespace })
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  undo.defer(() => rmSync(dir, { recursive: true, force: true }))
  writeFileSync(`${dir}/config.json`, JSON.stringify(final), { mode: 0o600 })
  return { dir, command: spec.process?.args?.[0] ?? '', oomScoreAdj: spec.process?.oomScoreAdj ?? 0, sources: sourcesOf(spec), shared: sharedOf(spec) }
}

/** Where the container's own mounts come from. */
function sourcesOf({ root, mounts = [] }: OciSpec): string[] {
  return [root?.path, ...mounts.filter(({ type }) => type === 'bind').map(({ source }) => source)].flatMap((path) => path ?? [])
}

/** Source: OCI runtime specification, config.md (mounts), and mount(8). */
const PROPAGATIONS: ReadonlySet<string> = new Set(['slave', 'rslave', 'shared', 'rshared'])

/** Those of them that are to receive mounts, or to pass them on. */
const sharedOf = ({ mounts = [] }: OciSpec): ReadonlySet<string> =>
  new Set(mounts.flatMap(({ source, options = [] }) => (source !== undefined && options.some((word) => PROPAGATIONS.has(word)) ? [source] : [])))

async function pidNamespaceOf(
  { podPid }: ContainersContext,
  id: string,
  mode: PidNamespaceMode,
  isInit: (pid: number) => boolean,
): Promise<string | undefined> {
  if (mode.kind === 'private') return undefined
  if (mode.kind === 'pod') return await podPid.path()
  if (isInit(mode.pid)) return `/proc/${mode.pid}/ns/pid`
  throw new RuntimeError('FAILED_PRECONDITION', `container ${id} wants the PID namespace of process ${mode.pid}, which is no running container here`)
}

/** Absolute, from the cgroup root. */
function cgroupOf({ podCgroup }: ContainersContext, id: string): string {
  return `${podCgroup}/${id}`
}
