/**
 * The steps of a start, in order. Each is named, timed and owned; the first failure ends the rest with one error that
 * names the step. Nothing is undone here: what was acquired is in the ledger, and the caller undoes it.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { RuntimeError, asRuntimeError, explain, type StatusName } from '#shared/errors.ts'
import { LINK_PORT } from '#shared/link-port.ts'
import type { LaunchPlan, RunningSandbox, SandboxExit } from './backend.ts'
import type { BoundBackend } from './backends.ts'
import { createPodCgroup } from './cgroup.ts'
import { consoleTail } from './console.ts'
import type { GuestPeer } from './guest.ts'
import type { Ledger } from './ledger.ts'
import { connectNetwork } from './network.ts'
import { outOfMemory } from './oom.ts'
import { outOfPids } from './pids.ts'
import type { SandboxRecord } from './record.ts'
import type { LaunchServices } from './services.ts'
import { openShare } from './share.ts'
import type { Trace } from './trace.ts'

/** Lines of the guest's console in the error of a failed start, and in the record of a sandbox that died. */
export const CONSOLE_LINES = 20

/** In their order. Beyond the VM's launch it is the guest that is waited for. */
export const startSteps = ['directory', 'cgroup', 'link', 'network', 'launch', 'forwards', 'hello', 'ready'] as const
export type StartStep = (typeof startSteps)[number]

export class StartFailure extends RuntimeError {
  readonly step: StartStep

  constructor(code: StatusName, message: string, step: StartStep) {
    super(code, message)
    this.step = step
  }
}

export interface Launch {
  readonly ledger: Ledger
  readonly backend: BoundBackend
  readonly services: LaunchServices
  readonly trace: Trace
  readonly peer: GuestPeer
  readonly handshake: Expectation
  readonly signal: AbortSignal
}

/** What a start waits for. */
export interface Expectation {
  /** Resolves when the guest is as far as it is to come */
  readonly ready: Promise<void>
  /** "hello" until the guest has said it, "ready" afterwards */
  readonly waitingFor: 'hello' | 'ready'
}

/** Where a pod's VM and a warm one differ. */
export interface Connections {
  /** Gives the VM its network cards */
  readonly network: (ledger: Ledger, backend: BoundBackend) => Promise<void>
  readonly forwards: (running: RunningSandbox, context: Launch) => Promise<Disposable>
}

export interface Launched {
  readonly running: RunningSandbox
  readonly link: AsyncDisposable
  readonly forwards: Disposable
}

/** Where a sandbox's things are; the same before and after a restart of the sandboxer. A warm VM's stay where they were. */
export const paths = (sandboxesDir: string, { id, vm }: Pick<SandboxRecord, 'id' | 'vm'>) => {
  const dir = join(sandboxesDir, vm ?? id)
  return { dir, sharedDir: join(dir, 'shared'), linkSocket: join(dir, `vsock_${LINK_PORT}`), console: join(dir, 'console.log') }
}

export function launchPlan(record: SandboxRecord, services: Pick<LaunchServices, 'sandboxesDir' | 'logLevel'>): LaunchPlan {
  const { dir, sharedDir, linkSocket } = paths(services.sandboxesDir, record)
  return {
    sandboxId: record.id,
    dir,
    sharedDir,
    linkSocket,
    vcpus: record.plan.vcpus,
    memoryMiB: record.plan.memoryMiB,
    netnsPath: record.plan.netnsPath,
    nics: record.nics ?? [],
    cgroupProcs: record.cgroupProcs,
    annotations: record.plan.annotations,
    logLevel: services.logLevel(),
  }
}

const toPod: Connections = { network: connectNetwork, forwards: openForwards }

/** Resolves when the guest is ready. Rejects with one error naming the step, the cause and the console's last lines. */
export async function launch(context: Launch, connections = toPod): Promise<Launched> {
  const { ledger, services, backend, trace, signal } = context
  const at = paths(services.sandboxesDir, ledger.record)
  let step = 'directory' as StartStep | 'guest'
  let running: RunningSandbox | undefined
  let link: AsyncDisposable | undefined
  let forwards: Disposable | undefined
  const run = <T>(name: StartStep | 'guest', task: () => Promise<T>): Promise<T> => {
    step = name
    signal.throwIfAborted()
    return trace.measure(name, task)
  }
  try {
    await run('directory', () => makeDirectories(context, at))
    await run('cgroup', async () => {
      const cgroupProcs = await createPodCgroup(ledger.record.plan.cgroupPath, services.cgroupRoots, ledger)
      ledger.note({ cgroupProcs: [...cgroupProcs] })
    })
    link = await run('link', () => services.links.listen(at.linkSocket, context.peer))
    await run('network', () => connections.network(ledger, backend))
    const started = await run('launch', () =>
      within(services.limits.startMs, signal, (limited) =>
        backend.launch(launchPlan(ledger.record, services), {
          ownership: ledger,
          log: services.log.with({ sandbox: ledger.sandboxId }),
          mark: (name, startMs, endMs, attributes) =>
            trace.add({ name, startMs, endMs, source: 'sandboxer', ...(attributes && { attributes }) }),
          signal: limited,
        }),
      ),
    )
    running = started
    // While the guest boots: it costs its start nothing.
    forwards = await run('forwards', () => connections.forwards(started, context))
    await run('guest', () => guestUp(context, started.exited, services.limits.startMs))
    return { running, link, forwards }
  } catch (error) {
    const failedAt = step === 'guest' ? context.handshake.waitingFor : step
    const lines = await lastLines(running, at.console)
    const { cgroupProcs } = ledger.record
    const failure = failed(ledger.sandboxId, failedAt, error, (await outOfMemory(cgroupProcs)) ?? (await outOfPids(cgroupProcs)), lines)
    forwards?.[Symbol.dispose]()
    await endQuietly(running, link)
    throw failure
  }
}

/** Nothing to dispose of where there is no localhost of the pod's, or nobody to forward to. */
export async function openForwards(running: RunningSandbox, { ledger, backend, services }: Pick<Launch, 'ledger' | 'backend' | 'services'>): Promise<Disposable> {
  const { netnsPath } = ledger.record.plan
  if (netnsPath === undefined || !backend.capabilities.portForward) return { [Symbol.dispose]() {} }
  const log = services.log.with({ sandbox: ledger.sandboxId })
  return services.forwards.open({ netnsPath, dial: (port, signal) => running.dial(port, signal), log })
}

async function makeDirectories({ ledger, services, backend }: Launch, { dir, sharedDir }: ReturnType<typeof paths>): Promise<void> {
  await ledger.acquire({ kind: 'directory', path: dir }, () => mkdir(dir, { mode: 0o700 }))
  if (backend.capabilities.sharing === 'none') await mkdir(sharedDir, { mode: 0o700 })
  else await openShare(sharedDir, ledger, services.mounts)
}

/** A signal that is aborted with the caller's, or when the time is up. */
async function within<T>(limitMs: number, signal: AbortSignal, task: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(new RuntimeError('DEADLINE_EXCEEDED', `not done within ${limitMs} ms`)), limitMs)
  try {
    return await task(AbortSignal.any([signal, late.signal]))
  } finally {
    clearTimeout(timer)
  }
}

/** The guest's Ready, or the first reason why it will not come. */
export async function guestUp({ handshake, signal }: Pick<Launch, 'handshake' | 'signal'>, exited: Promise<SandboxExit>, limitMs: number): Promise<void> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason)
  signal.addEventListener('abort', onAbort)
  if (signal.aborted) onAbort()
  const timer = setTimeout(() => {
    reject(new RuntimeError('DEADLINE_EXCEEDED', `the guest's agent did not say ${handshake.waitingFor} within ${limitMs} ms`))
  }, limitMs)
  const died = exited.then((exit) => {
    throw new RuntimeError('ABORTED', exit.reason)
  })
  try {
    await Promise.race([handshake.ready, died, aborted])
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    died.catch(() => {})
    aborted.catch(() => {})
  }
}

/** All in the message, for a message is all that reaches the kubelet. */
function failed(id: string, step: StartStep, error: unknown, why: string | undefined, lines: readonly string[]): StartFailure {
  const console = lines.length === 0 ? '' : `\nlast lines of the guest's console:\n${lines.map((line) => `  ${line}`).join('\n')}`
  const { code } = asRuntimeError(error)
  // A deadline of ours is not the caller's, for which containerd would take it, and say so in words of its own.
  return new StartFailure(code === 'DEADLINE_EXCEEDED' ? 'ABORTED' : code, `sandbox ${id}: start failed at step ${step}: ${explain(error)}${why === undefined ? '' : `: ${why}`}${console}`, step)
}

async function lastLines(running: RunningSandbox | undefined, path: string): Promise<string[]> {
  try {
    return running === undefined ? await consoleTail(path, CONSOLE_LINES) : await running.consoleTail(CONSOLE_LINES)
  } catch {
    return []
  }
}

/** The ledger's undoing finds what resists. */
async function endQuietly(running: RunningSandbox | undefined, link: AsyncDisposable | undefined): Promise<void> {
  await running?.kill().catch(() => {})
  await link?.[Symbol.asyncDispose]()
}
