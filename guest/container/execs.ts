/** Processes added to a running container. */
import { hasCode, RuntimeError } from '#shared/errors.ts'
import { type Container, type Exec, execOf, EXECS_MAX } from './container.ts'
import { type ContainersContext, publish } from './context.ts'
import { fullOr } from './full.ts'
import { ProcessIo } from './io.ts'
import { parseProcess } from './oci.ts'
import { type Ended, NEVER_RAN, Process } from './process.ts'
import { finalProcess } from './spec.ts'
import { type Exit, hasExited } from './state.ts'
import { planStdio, type Stdio } from './stdio.ts'

export interface AddExec {
  readonly id: string
  readonly stdio: Stdio
  /** OCI process object, JSON. */
  readonly spec: Buffer
}

/** Registers an exec; startExec runs it. */
export async function addExec(
  context: Pick<ContainersContext, 'io' | 'execPolicy' | 'events'>,
  container: Container,
  request: AddExec,
): Promise<Exec> {
  const { id: containerId, init, execs, execsUnderWay } = container
  const { id, stdio } = request
  const about = `exec ${id} in container ${containerId}`
  init.assert('exec')
  if (execs.has(id) || execsUnderWay.has(id)) throw new RuntimeError('ALREADY_EXISTS', `${about} exists already`)
  if (execs.size + execsUnderWay.size >= EXECS_MAX) {
    throw new RuntimeError('RESOURCE_EXHAUSTED', `container ${containerId} holds ${EXECS_MAX} execs already`)
  }
  const spec = finalProcess(parseProcess(request.spec, about))
  const plan = planStdio(stdio, about)
  execsUnderWay.add(id)
  try {
    const io = await ProcessIo.open(plan, context.io, context.execPolicy)
    if (hasExited(init.state)) {
      // Its execs have had their end, or are gone with it: nobody would end this one, or let go of its streams.
      await io.discard()
      init.assert('exec')
    }
    const process = new Process(about, stdio, io, undefined, {
      exited: async () => {},
      stopped: ({ state }, exit) => {
        if (state.pid !== 0) publish(context, { kind: 'exit', containerId, id, pid: state.pid, exit })
      },
    })
    const exec: Exec = { id, spec: { ...spec, terminal: stdio.terminal }, process }
    execs.set(id, exec)
    publish(context, { kind: 'exec-added', containerId, execId: id })
    return exec
  } finally {
    execsUnderWay.delete(id)
  }
}

/** Runs it, and answers its pid. A command that cannot run ends the exec with NEVER_RAN. */
export async function startExec(context: ContainersContext, container: Container, execId: string): Promise<number> {
  const { id: containerId, dir, oomScoreAdj, init } = container
  const { process, spec } = execOf(container, execId)
  const { io } = process
  const command = spec.args?.[0] ?? ''
  return await process.turns.run(async () => {
    process.assert('start')
    init.assert('exec')
    const sinceNanos = context.bootTimeNanos()
    let pid: number
    try {
      const stdio = { fds: io.fds, consoleSocket: io.consoleSocket }
      const sized = JSON.stringify(io.size === undefined ? spec : { ...spec, consoleSize: { width: io.size.columns, height: io.size.rows } })
      pid = await context.runtime.exec({ containerId, bundle: dir, execId, process: sized, command, oomScoreAdj, ...stdio })
    } catch (failure) {
      const error = fullOr(failure, container.cgroup)
      await io.discard()
      process.end(neverRan())
      if (!isOfCommand(error) && (await endsSoon(init))) init.assert('exec')
      throw error
    }
    process.running({ pid, seenNanos: context.bootTimeNanos() })
    void process.exit(context.reaper.claim(pid, sinceNanos))
    try {
      await io.handedOver()
    } catch (error) {
      process.signal(SIGKILL)
      throw error
    }
    publish(context, { kind: 'exec-started', containerId, execId, pid })
    return pid
  })
}

/** Forgets an exec that has ended, or never began. */
export async function deleteExec(container: Container, execId: string): Promise<Ended> {
  const { process } = execOf(container, execId)
  const removed = await process.turns.run(async () => {
    process.assert('delete')
    if (process.state.kind === 'created') process.end(neverRan())
    return await process.remove()
  })
  container.execs.delete(execId)
  return removed
}

/** How long the end of a container may be heard of after crun has failed for it: the kernel ends a container's first process last. */
const END_MS_MAX = 1000

/** Errors that the command itself has earned, in a container that lives. */
function isOfCommand(error: unknown): boolean {
  return hasCode(error, 'INVALID_ARGUMENT') || hasCode(error, 'PERMISSION_DENIED')
}

/** True once the process has exited; false when it has not after END_MS_MAX. */
async function endsSoon({ exited }: Process): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<false>()
  const timer = setTimeout(() => resolve(false), END_MS_MAX)
  try {
    return await Promise.race([exited.then(() => true), promise])
  } finally {
    clearTimeout(timer)
  }
}

const SIGKILL = 9

function neverRan(): Exit {
  return { status: NEVER_RAN, atNanos: BigInt(Date.now()) * 1_000_000n }
}
