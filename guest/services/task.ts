/** containerd.task.v3.Task: translation and nothing else. */
import process from 'node:process'
import { explain, hasCode, RuntimeError } from '#shared/errors.ts'
import { containerId, execId } from '#shared/ids.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import { pidsOf, processOf } from '../container/container.ts'
import type { Containers } from '../container/containers.ts'
import { type Exit, hasExited, type ProcessState, type Status, statusOf } from '../container/state.ts'
import type { GuestRpc } from '../rpc.ts'
import { packMetrics } from './metrics.ts'
import { timestamp } from './timestamp.ts'

/** What Connect answers as the version of the task API. */
const TASK_API_VERSION = '3'

const wireStatus = { created: 'CREATED', running: 'RUNNING', paused: 'PAUSED', stopped: 'STOPPED' } as const satisfies Record<Status, string>

export function createTaskService(containers: Containers, rpc: GuestRpc): Handlers<ServiceTypesOf<'task'>> {
  const find = (request: { readonly id: string; readonly execId?: string }) => {
    const container = containers.get(containerId(request.id))
    const exec = optionalExecId(request.execId)
    return { container, exec, target: processOf(container, exec) }
  }
  return {
    async Create({ id, bundle, stdin, stdout, stderr, terminal, checkpoint }, { signal }) {
      const stdio = { stdin, stdout, stderr, terminal }
      const letGo = containers.waiting(stdio)
      try {
        if (checkpoint !== '') throw new RuntimeError('UNIMPLEMENTED', `container ${id}: restoring from a checkpoint is not supported`)
        const container = await containers.create({ id: containerId(id), bundle, stdio }, signal)
        return { pid: container.init.state.pid }
      } catch (error) {
        letGo()
        throw implemented(error)
      }
    },
    async Start(request) {
      const { container, exec } = find(request)
      return { pid: exec === '' ? await containers.start(container) : await containers.startExec(container, exec) }
    },
    async Exec({ id, execId: exec, stdin, stdout, stderr, terminal, spec }) {
      const stdio = { stdin, stdout, stderr, terminal }
      const letGo = containers.waiting(stdio)
      try {
        const container = containers.get(containerId(id))
        if (spec === null) throw new RuntimeError('INVALID_ARGUMENT', `exec ${exec} in container ${id}: the process spec is missing`)
        await containers.addExec(container, { id: execId(exec), stdio, spec: Buffer.from(spec.value) })
        return {}
      } catch (error) {
        letGo()
        throw error
      }
    },
    State(request) {
      const { container, exec, target } = find(request)
      const { state, stdio } = target
      return { id: container.id, execId: exec, bundle: container.bundle, ...stdio, ...wireState(state) }
    },
    Pids(request) {
      const { container } = find({ id: request.id })
      return { processes: pidsOf(container).map((pid) => ({ pid })) }
    },
    Connect(request) {
      const container = containers.recall(containerId(request.id))
      return { shimPid: process.pid, taskPid: container.init.state.pid, version: TASK_API_VERSION }
    },
    async Wait(request) {
      return wireExit(await find(request).target.stopped)
    },
    async Kill(request) {
      const { container, exec } = find(request)
      await containers.kill(container, exec, request.signal, request.all)
      return {}
    },
    async Delete(request) {
      const id = containerId(request.id)
      const exec = optionalExecId(request.execId)
      const { pid, exit } = exec === '' ? await containers.delete(id) : await containers.deleteExec(containers.get(id), exec)
      return { pid, ...wireExit(exit) }
    },
    CloseIO(request) {
      const { target } = find(request)
      if (request.stdin) target.io.closeStdin()
      return {}
    },
    ResizePty(request) {
      const { target } = find(request)
      target.assert('resize')
      target.io.resize(request.width, request.height)
      return {}
    },
    async Pause(request) {
      await containers.pause(find({ id: request.id }).container)
      return {}
    },
    async Resume(request) {
      await containers.resume(find({ id: request.id }).container)
      return {}
    },
    async Update(request) {
      const { container } = find({ id: request.id })
      if (request.resources === null) throw new RuntimeError('INVALID_ARGUMENT', `update of container ${request.id}: the resources are missing`)
      await containers.update(container, Buffer.from(request.resources.value))
      return {}
    },
    async Stats(request) {
      return { stats: await packMetrics(rpc.any, find({ id: request.id }).container.cgroup) }
    },
    Checkpoint({ id }) {
      throw new RuntimeError('UNIMPLEMENTED', `container ${id}: checkpoints are not supported`)
    },
    /** containerd asks for the end of a shim; the agent serves the whole pod and stays. */
    Shutdown() {
      return {}
    },
  }
}

function optionalExecId(id: string | undefined): string {
  return id === undefined || id === '' ? '' : execId(id)
}

function wireState(state: ProcessState) {
  const status = statusOf[state.kind]
  // Also while it is being deleted. containerd 2.1 takes an exit without its time for a container that runs (restart.go).
  const exit = status === 'stopped' && hasExited(state) ? wireExit(state.exit) : {}
  return { pid: state.pid, status: wireStatus[status], ...exit }
}

function wireExit(exit: Exit) {
  return { exitStatus: exit.status, exitedAt: timestamp(exit.atNanos) }
}

/**
 * What may not be answered to Create: containerd takes Unimplemented for an agent of task API v2, asks again in v2, and
 * reports that nobody serves v2 instead of what is the matter.
 */
function implemented(error: unknown): unknown {
  return hasCode(error, 'UNIMPLEMENTED') ? new RuntimeError('FAILED_PRECONDITION', explain(error), { cause: error }) : error
}
