/** Task events as containerd's messages and topics. */
import { unreachable } from '#shared/errors.ts'
import type { AnyCodec, AnyValue } from '#shared/rpc/any.ts'
import type { TaskEvent } from '../container/ports.ts'
import { timestamp } from './timestamp.ts'

export function topicOf(event: TaskEvent): string {
  return `/tasks/${event.kind}`
}

export function packEvent(any: AnyCodec, event: TaskEvent): AnyValue {
  const { containerId } = event
  switch (event.kind) {
    case 'create': {
      const { bundle, stdio: io, pid } = event
      return any.pack('containerd.events.TaskCreate', { containerId, bundle, io, pid })
    }
    case 'start':
      return any.pack('containerd.events.TaskStart', { containerId, pid: event.pid })
    case 'oom':
      return any.pack('containerd.events.TaskOOM', { containerId })
    case 'exit': {
      const { id, pid, exit } = event
      return any.pack('containerd.events.TaskExit', { containerId, id, pid, exitStatus: exit.status, exitedAt: timestamp(exit.atNanos) })
    }
    case 'delete': {
      const { execId: id, pid, exit } = event
      return any.pack('containerd.events.TaskDelete', { containerId, id, pid, exitStatus: exit.status, exitedAt: timestamp(exit.atNanos) })
    }
    case 'exec-added':
      return any.pack('containerd.events.TaskExecAdded', { containerId, execId: event.execId })
    case 'exec-started':
      return any.pack('containerd.events.TaskExecStarted', { containerId, execId: event.execId, pid: event.pid })
    case 'paused':
      return any.pack('containerd.events.TaskPaused', { containerId })
    case 'resumed':
      return any.pack('containerd.events.TaskResumed', { containerId })
    default:
      return unreachable(event)
  }
}
