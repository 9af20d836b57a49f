/**
 * kuasar.host.v1: what a guest may ask, on a socket of its own sandbox. The socket says who calls; everything in a call
 * is hostile and bounded. One link per sandbox lives at a time, and the newest wins: an agent that reconnects knows
 * better than a connection whose end has not been noticed yet.
 */
import type { Socket } from 'node:net'
import { RuntimeError, explain, unreachable } from '#shared/errors.ts'
import { containerId } from '#shared/ids.ts'
import { GUEST_MESSAGE_BYTES_MAX, GUEST_MESSAGE_FIELDS_MAX, GUEST_READ_SHARE_MAX } from '#shared/link-limits.ts'
import type { Log } from '#shared/log.ts'
import type { MessageOut } from '#shared/rpc/any.ts'
import type { Rpc, ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import type { CallReport } from '#shared/ttrpc/options.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'
import { TimeShare } from '#shared/ttrpc/time-share.ts'
import type { GuestStorage, PidNamespaceMode } from '../container/contract.ts'
import { listenForGuest } from '../link/listener.ts'
import { networkMessage } from '../link/network.ts'
import type { BootMark, Claimed, GuestLinks, GuestPeer, GuestRefusal, Hello, Welcome } from '../sandbox/guest.ts'
import { nowMs } from '../sandbox/trace.ts'
import { readEvent } from './guest-events.ts'
import { GuestLog } from './guest-log.ts'

/**
 * Of one guest's link. An agent has one prepare or release per container under way, a publish and a batch of its log; what
 * is held is the encoded requests of calls that are not answered yet.
 */
const limits = {
  receivedFrameBytesMax: GUEST_MESSAGE_BYTES_MAX,
  receivedFieldsMax: GUEST_MESSAGE_FIELDS_MAX,
  concurrentCallsMax: 256,
  heldBytesMax: 4 * GUEST_MESSAGE_BYTES_MAX,
  sendQueueBytesMax: 32 * 1024 * 1024,
}
const BOOT_MARKS_MAX = 64
/** A guest's queue hands on 16 at once. */
const EVENTS_PER_PUBLISH_MAX = 64
const VERSION_LENGTH_MAX = 128
/** Longer than any plausible uptime, in ns: a claim beyond it is noise. */
const BOOTTIME_NANOS_MAX = 2n ** 62n

/** Told of what guests ask, and of what is refused. */
export interface GuestLinksObserver {
  readonly onCall: (report: CallReport) => void
  readonly onRefused: (what: GuestRefusal) => void
}

/** `instance` is this sandboxer's, and told to every guest. */
export function createGuestLinks(rpc: Rpc, instance: string, log: Log, { onCall, onRefused }: Partial<GuestLinksObserver> = {}): GuestLinks {
  return {
    async listen(socketPath: string, peer: GuestPeer): Promise<AsyncDisposable> {
      const readShare = new TimeShare(GUEST_READ_SHARE_MAX)
      let guestLog: GuestLog | undefined
      // Made at its first record: by then a warm VM goes by the name of its pod.
      const guestLogOf = () => (guestLog ??= new GuestLog(log.with({ sandbox: peer.id }), () => onRefused?.('log')))
      let current: { readonly socket: Socket; readonly server: TtrpcServer } | undefined
      const listener = await listenForGuest(socketPath, {
        onConnection(socket) {
          current?.socket.destroy()
          const ttrpc = new TtrpcServer({
            ...limits,
            readShare,
            onCall,
            onRefused: () => onRefused?.('request'),
            onError: (error) => log.debug('guest link', { sandbox: peer.id, error: explain(error) }),
          }).add(rpc.host, handlers(rpc, instance, peer, guestLogOf))
          current = { socket, server: ttrpc }
          ttrpc.accept(socket)
        },
        onRest: () => onRefused?.('dials'),
        onError: (error) => log.error('guest link', { sandbox: peer.id, error }),
      })
      return {
        [Symbol.asyncDispose]: async () => {
          current?.socket.destroy()
          guestLog?.close()
          await listener[Symbol.asyncDispose]()
        },
      }
    },
  }
}

/** Of one connection: nothing is answered before its Hello was, and that but once, for an answer has the whole of a pod's network. */
function handlers(rpc: Rpc, instance: string, peer: GuestPeer, guestLog: () => GuestLog): Handlers<ServiceTypesOf<'host'>> {
  let greeting: 'none' | 'asked' | 'answered' = 'none'
  const greet = async (hello: Hello, signal: AbortSignal): Promise<Welcome> => {
    if (greeting !== 'none') throw new RuntimeError('FAILED_PRECONDITION', 'a connection has one Hello')
    greeting = 'asked'
    try {
      const welcome = await peer.hello(hello, signal)
      greeting = 'answered'
      return welcome
    } catch (error) {
      greeting = 'none'
      throw error
    }
  }
  const mustBeGreeted = () => {
    if (greeting !== 'answered') throw new RuntimeError('FAILED_PRECONDITION', 'the first call of a connection is Hello')
  }
  return {
    async Hello(request, { signal }) {
      const hello = {
        protocolVersion: request.protocolVersion,
        agentVersion: request.agentVersion.slice(0, VERSION_LENGTH_MAX),
        kernelVersion: request.kernelVersion.slice(0, VERSION_LENGTH_MAX),
        resumed: request.resumed,
        boot: marks(request.boot),
        boottimeNanos: boottime(request.boottimeNanos),
        arrivedAtMs: nowMs(),
      }
      const { protocolVersion, sandboxId, guest, pidsLimit, network, cards, storages, logLevel } = await greet(hello, signal)
      return {
        protocolVersion,
        sandboxId,
        instance,
        hostname: guest.hostname,
        dns: { servers: [...guest.dns.servers], searches: [...guest.dns.searches], options: [...guest.dns.options] },
        sysctls: { ...guest.sysctls },
        network: networkMessage(network),
        cards: [...cards],
        storages: storages.map(storageMessage),
        realtimeNanos: String(BigInt(Math.round(nowMs() * 1000)) * 1000n),
        shmBytes: String(guest.shmBytes),
        hugepageBytes: String(guest.hugepagesMiB * 1024 * 1024),
        memoryLimitBytes: String(guest.memoryLimitBytes),
        pidsLimit,
        logLevel,
        hostsLines: [...guest.hostsLines],
        eventsPerPublish: EVENTS_PER_PUBLISH_MAX,
      }
    },
    Ready(request) {
      mustBeGreeted()
      peer.ready({ boot: marks(request.boot), boottimeNanos: boottime(request.boottimeNanos), arrivedAtMs: nowMs() })
      return {}
    },
    async Prepare(request, { signal }) {
      mustBeGreeted()
      const { spec, storages, pidNamespace } = await peer.prepare(containerId(request.containerId), signal)
      return { spec, storages: storages.map(storageMessage), ...pidFields(pidNamespace) }
    },
    async Release(request) {
      mustBeGreeted()
      await peer.release(containerId(request.containerId))
      return {}
    },
    async Publish(request, { signal }) {
      mustBeGreeted()
      if (request.more.length >= EVENTS_PER_PUBLISH_MAX) {
        throw new RuntimeError('INVALID_ARGUMENT', `${request.more.length + 1} events in one Publish; the limit is ${EVENTS_PER_PUBLISH_MAX}`)
      }
      const arrivedAtMs = nowMs()
      // One after the other: what comes behind a failed one would make it look handed on.
      for (const { sequence, topic, event: packed, crun } of [request, ...request.more]) {
        const { id, event } = readEvent(rpc.any, topic, packed)
        if (crun !== null) peer.created(id, claimed(crun, arrivedAtMs))
        await peer.publish(BigInt(sequence), id, event, signal)
      }
      return {}
    },
    Log(request) {
      mustBeGreeted()
      guestLog().write(request.records, request.dropped)
      return {}
    },
  }
}

const boottime = (text: string): bigint => {
  const nanos = BigInt(text)
  return nanos > BOOTTIME_NANOS_MAX ? BOOTTIME_NANOS_MAX : nanos
}

const marks = (boot: readonly { readonly name: string; readonly boottimeNanos: string }[]): BootMark[] =>
  boot.slice(0, BOOT_MARKS_MAX).map(({ name, boottimeNanos }) => ({ name, boottimeNanos: boottime(boottimeNanos) }))

function claimed({ tookNanos, endedNanosAgo }: MessageOut<'kuasar.host.v1.CrunTime'>, arrivedAtMs: number): Claimed {
  const endMs = arrivedAtMs - Number(endedNanosAgo) / 1e6
  return { startMs: endMs - Number(tookNanos) / 1e6, endMs }
}

/** The wire's form, whose lists may be written to. */
function storageMessage(storage: GuestStorage) {
  return { ...storage, options: [...storage.options] }
}

function pidFields(mode: PidNamespaceMode) {
  switch (mode.kind) {
    case 'private':
      return { pidNamespace: 'PID_NAMESPACE_PRIVATE', targetPid: 0 } as const
    case 'pod':
      return { pidNamespace: 'PID_NAMESPACE_POD', targetPid: 0 } as const
    case 'target':
      return { pidNamespace: 'PID_NAMESPACE_TARGET', targetPid: mode.pid } as const
    default:
      return unreachable(mode)
  }
}
