/**
 * The containerd events a guest may publish: those of tasks, each under its own topic, each about a container of the
 * sandbox that sends it. Topics and types are containerd's (core/runtime/events.go); a subscriber trusts both.
 */
import { RuntimeError } from '#shared/errors.ts'
import { containerId } from '#shared/ids.ts'
import type { AnyCodec, AnyValue } from '#shared/rpc/any.ts'
import type { EventEnvelope } from '../containerd/contract.ts'

/** An event is a few ids and a time; TaskCreate carries the mounts of a root file system too. */
const EVENT_BYTES_MAX = 16 * 1024

const types = {
  '/tasks/create': 'containerd.events.TaskCreate',
  '/tasks/start': 'containerd.events.TaskStart',
  '/tasks/oom': 'containerd.events.TaskOOM',
  '/tasks/exit': 'containerd.events.TaskExit',
  '/tasks/delete': 'containerd.events.TaskDelete',
  '/tasks/exec-added': 'containerd.events.TaskExecAdded',
  '/tasks/exec-started': 'containerd.events.TaskExecStarted',
  '/tasks/paused': 'containerd.events.TaskPaused',
  '/tasks/resumed': 'containerd.events.TaskResumed',
} as const

const isTopic = (topic: string): topic is keyof typeof types => Object.hasOwn(types, topic)

/** Errors: INVALID_ARGUMENT for any other topic, type or size. */
export function readEvent(any: AnyCodec, topic: string, event: AnyValue | null): { readonly id: string; readonly event: EventEnvelope } {
  if (!isTopic(topic))
    throw new RuntimeError('INVALID_ARGUMENT', `topic ${JSON.stringify(topic.slice(0, 80))} is not one a guest may publish: ${Object.keys(types).join(', ')}`)
  if ((event?.value.length ?? 0) > EVENT_BYTES_MAX)
    throw new RuntimeError('INVALID_ARGUMENT', `event ${topic} has ${event?.value.length} bytes; the limit is ${EVENT_BYTES_MAX}`)
  const typeUrl = types[topic]
  const message = any.unpack(event, typeUrl)
  // Copied: the decoded bytes share the buffer they were read into.
  return { id: containerId(message.containerId), event: { topic, typeUrl, value: Buffer.from(event?.value ?? []) } }
}
