/** The sandboxer's service in the agent's own terms: what crosses the link is translated here and nowhere else. */
import { link as hardLink } from 'node:fs/promises'
import { explain, RuntimeError } from '#shared/errors.ts'
import { LOG_FIELDS_LENGTH_MAX, LOG_MESSAGE_LENGTH_MAX } from '#shared/link-limits.ts'
import type { Log, LogFields, LogRecord } from '#shared/log.ts'
import { type PodNetwork, type Route, routePreferences, routeTypes } from '#shared/network.ts'
import type { MessageOut } from '#shared/rpc/any.ts'
import type { BootMark } from '../boot-marks.ts'
import type { CrunTime, PidNamespaceMode, PreparedContainer, Preparer } from '../container/ports.ts'
import type { NumberedEvent, SendEvents } from '../link/events.ts'
import type { Hello, HelloAnswer, HostLink } from '../link/link.ts'
import { formatFields } from '../link/log-line.ts'
import type { PodConfig } from '../pod.ts'
import type { GuestRpc } from '../rpc.ts'
import type { Storage } from '../storage/storages.ts'
import { AGENT_VERSION, PROTOCOL_VERSION } from '../version.ts'
import { packEvent, topicOf } from './events.ts'
import { Releases } from './releases.ts'

/** How long a create waits for a sandboxer that is away: longer than a restart, shorter than kubelet's patience. */
export const PREPARE_MS_MAX = 30_000

/** How long one call may take the sandboxer: it talks to containerd and mounts. */
const CALL_MS_MAX = 120_000

/** How long a release waits for a sandboxer that is away. Beyond it, the sandboxer's own reconciliation finds it. */
const RELEASE_MS_MAX = 24 * 60 * 60 * 1000
const PUBLISH_MS_MAX = 10_000
const LOG_MS_MAX = 5000

/** `shares`: where the share is mounted. */
export function createPreparer(link: HostLink, shares: readonly string[], log: Log): Preparer {
  const releases = new Releases({
    async release(containerId, sources) {
      await link.call(RELEASE_MS_MAX, (calls) => calls.Release({ containerId }, { timeoutMs: CALL_MS_MAX }))
      const own = shares.map((share) => `${share}/${containerId}`)
      // What it had in common with others may be gone too.
      const common = sources.filter((path) => shares.some((share) => path.startsWith(`${share}/`)) && !own.some((top) => path.startsWith(`${top}/`)))
      await Promise.all([...own, ...common].map(forget))
    },
    up: () => link.up,
    failed: (containerId, error) => log.warn('a container is not released', { container: containerId, error: explain(error) }),
  })
  return {
    async prepare(containerId) {
      await link.calls(PREPARE_MS_MAX)
      await releases.settled(containerId)
      const answer = await link.call(PREPARE_MS_MAX, (calls) => calls.Prepare({ containerId }, { timeoutMs: CALL_MS_MAX }))
      return preparedOf(answer)
    },
    release: (containerId, sources) => releases.release(containerId, sources),
  }
}

/**
 * Has the kernel ask the host for a name that the host has removed, with which it forgets all it knew below; one that is there
 * still it finds again, and forgets nothing. Until then
 * virtiofsd keeps the files open, the host's disk keeps what the container has deleted, and a container of the same name
 * would get the old one's files. (That a name is missing is never believed: virtiofsd gives that no time to live.)
 *
 * Only an attempt to create a name asks the host however long it may be believed (LOOKUP_EXCL, Linux 5.17), and a link
 * from another file system is the attempt that never succeeds.
 */
async function forget(path: string): Promise<void> {
  await hardLink('/proc/version', path).catch(() => {})
}

/**
 * Publishes events, as many in one call as the sandboxer takes; waits for one that is away as long as the queue's own
 * retry does.
 */
export function createPublisher(link: HostLink, rpc: GuestRpc, bootTimeNanos: () => bigint): SendEvents {
  const message = ({ sequence, event }: NumberedEvent) => ({
    sequence: String(sequence),
    topic: topicOf(event),
    event: packEvent(rpc.any, event),
    ...(event.kind === 'create' && { crun: crunTimeMessage(event.crun, bootTimeNanos()) }),
  })
  return async (events) => {
    const messages = events.map(message)
    await link.call(PUBLISH_MS_MAX, async (calls) => {
      const atOnce = link.eventsPerPublish
      for (let at = 0; at < messages.length; at += atOnce) {
        const [first, ...more] = messages.slice(at, at + atOnce)
        await calls.Publish({ ...first, more }, { timeoutMs: PUBLISH_MS_MAX })
      }
    })
  }
}

function crunTimeMessage({ beganNanos, endedNanos }: CrunTime, nowNanos: bigint) {
  return { tookNanos: String(endedNanos - beganNanos), endedNanosAgo: String(nowNanos - endedNanos) }
}

export function createLogSender(link: HostLink): (records: readonly LogRecord[], dropped: number) => Promise<void> {
  return async (records, dropped) => {
    const request = {
      records: records.map(({ timeMs, level, message, fields }) => ({
        realtimeNanos: String(BigInt(Math.trunc(timeMs)) * 1_000_000n),
        level,
        message: message.slice(0, LOG_MESSAGE_LENGTH_MAX),
        fields: fieldsText(fields),
      })),
      dropped: String(dropped),
    }
    const calls = await link.calls(LOG_MS_MAX)
    await calls.Log(request, { timeoutMs: LOG_MS_MAX })
  }
}

function fieldsText(fields: LogFields): string {
  return JSON.stringify(Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, textOf(value)])))
    .slice(0, LOG_FIELDS_LENGTH_MAX)
}

export function helloOf(kernel: string, resumed: boolean, boot: readonly BootMark[], bootTimeNanos: bigint): Hello {
  return {
    protocolVersion: PROTOCOL_VERSION,
    agentVersion: AGENT_VERSION,
    kernelVersion: kernel,
    resumed,
    boot: marksOf(boot),
    boottimeNanos: String(bootTimeNanos),
  }
}

export function marksOf(boot: readonly BootMark[]): { name: string; boottimeNanos: string }[] {
  return boot.map(({ name, bootTimeNanos }) => ({ name, boottimeNanos: String(bootTimeNanos) }))
}

/** Throws FAILED_PRECONDITION when the sandboxer speaks another version of the protocol. */
export function podOf(answer: HelloAnswer): PodConfig {
  if (answer.protocolVersion !== PROTOCOL_VERSION) {
    const message = `the sandboxer speaks version ${answer.protocolVersion} of the guest link, the agent ${PROTOCOL_VERSION}; install matching versions`
    throw new RuntimeError('FAILED_PRECONDITION', message)
  }
  return {
    sandboxId: answer.sandboxId,
    hostname: answer.hostname,
    dns: answer.dns ?? { servers: [], searches: [], options: [] },
    sysctls: new Map(Object.entries(answer.sysctls)),
    network: networkOf(answer.network),
    cards: answer.cards,
    storages: answer.storages.map(storageOf),
    realtimeNanos: BigInt(answer.realtimeNanos),
    shmBytes: BigInt(answer.shmBytes),
    hugepageBytes: Number(answer.hugepageBytes),
    memoryLimitBytes: Number(answer.memoryLimitBytes),
    pidsLimit: answer.pidsLimit,
    logLevel: answer.logLevel,
    hostsLines: answer.hostsLines,
  }
}

/** Errors: INVALID_ARGUMENT for a route of no kind the kernel has. */
export function networkOf(network: MessageOut<'kuasar.host.v1.Network'> | null): PodNetwork {
  if (network === null) return { links: [], routes: [], neighbours: [] }
  return { ...network, routes: network.routes.map(routeOf) }
}

function routeOf(route: MessageOut<'kuasar.host.v1.Route'>): Route {
  const { family } = route
  const type = routeTypes.find((known) => known === route.type)
  if (type === undefined || (family !== 4 && family !== 6)) throw new RuntimeError('INVALID_ARGUMENT', `a route of type ${JSON.stringify(route.type)} and family ${family}: expected one of ${routeTypes.join(', ')} and 4 or 6`)
  return { ...route, family, type, preference: routePreferences.find((known) => known === route.preference) ?? 'medium' }
}

function preparedOf(answer: MessageOut<'kuasar.host.v1.PrepareResponse'>): PreparedContainer {
  return { spec: Buffer.from(answer.spec), storages: answer.storages.map(storageOf), pidNamespace: pidNamespaceOf(answer) }
}

function pidNamespaceOf(answer: MessageOut<'kuasar.host.v1.PrepareResponse'>): PidNamespaceMode {
  switch (answer.pidNamespace) {
    case 'PID_NAMESPACE_PRIVATE':
      return { kind: 'private' }
    case 'PID_NAMESPACE_POD':
      return { kind: 'pod' }
    case 'PID_NAMESPACE_TARGET':
      return { kind: 'target', pid: answer.targetPid }
    default:
      throw new RuntimeError('UNIMPLEMENTED', `PID namespace mode ${String(answer.pidNamespace)} is unknown to this agent`)
  }
}

function storageOf({ type, source, target, options }: MessageOut<'kuasar.host.v1.Storage'>): Storage {
  return { type, source, target, options }
}

function textOf(value: unknown): unknown {
  return value instanceof Error ? formatFields({ error: value }) : value
}
