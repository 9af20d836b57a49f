/** What one connection may hold, by name. Every queue and wait of the library ends at one of these. */
import { RuntimeError } from '../errors.ts'

export interface Limits {
  /** Largest encoded envelope or stream message sent, in bytes. The default is the protocol's. */
  readonly sentFrameBytesMax: number
  /** The same for what is received. */
  readonly receivedFrameBytesMax: number
  /**
   * Fields of a received message, those of messages in it not counted. A list of empty messages, two bytes each, decodes to
   * 70 times its bytes: a peer that means harm should be held to as many as it has use for.
   */
  readonly receivedFieldsMax: number
  /** Bytes queued for a peer that does not read: above, new calls fail at once and answers wait for room. */
  readonly sendQueueBytesMax: number
  /** Bytes queued above which streams wait before their next message and a server stops reading requests. */
  readonly sendQueueBytesHigh: number
  /**
   * Bytes handed to the socket in one write. 16 KiB on a guest's vsock, where larger writes can be lost
   * (kernels above 6.1 under vhost-device-vsock 0.3); unlimited elsewhere.
   */
  readonly writeBytesMax: number
  /** Bytes a stream holds for a consumer that does not read: above, that stream fails with RESOURCE_EXHAUSTED. */
  readonly streamQueueBytesMax: number
  /**
   * How long, in milliseconds, a stream with a half-full queue may hold up the reading of its connection before it
   * fails with RESOURCE_EXHAUSTED. A stream that is alone on a client's connection may hold it up forever.
   */
  readonly streamStallMsMax: number
  /** Calls in flight on one connection: above, a client's call and a server's answer are RESOURCE_EXHAUSTED. */
  readonly concurrentCallsMax: number
  /** Bytes of requests and unread messages a server holds for one connection: above, calls are refused. */
  readonly heldBytesMax: number
  /** How long, in milliseconds, one chunk of a connection may take before all else in the process has its turn. */
  readonly readMsMax: number
  /** Metadata pairs of one request. */
  readonly metadataPairsMax: number
  /** Bytes of a status message sent; the rest is cut off. */
  readonly statusMessageBytesMax: number
  /** How long, in milliseconds, `TtrpcServer.close` waits for queued answers to be written. */
  readonly closeMsMax: number
}

const KiB = 1024
const MiB = 1024 * KiB

export const defaultLimits: Limits = {
  sentFrameBytesMax: 4 * MiB,
  receivedFrameBytesMax: 4 * MiB,
  receivedFieldsMax: Number.POSITIVE_INFINITY,
  sendQueueBytesMax: 16 * MiB,
  sendQueueBytesHigh: 256 * KiB,
  writeBytesMax: Number.POSITIVE_INFINITY,
  streamQueueBytesMax: 8 * MiB,
  streamStallMsMax: 1000,
  concurrentCallsMax: 4096,
  heldBytesMax: 64 * MiB,
  readMsMax: 5,
  metadataPairsMax: 1024,
  statusMessageBytesMax: 16 * KiB,
  closeMsMax: 1000,
}

/** Limits to set otherwise. */
export type LimitChanges = { readonly [K in keyof Limits]?: Limits[K] | undefined }

/**
 * The defaults with some of them replaced.
 * @throws RuntimeError INVALID_ARGUMENT when a limit is not a number of at least 1, or there is none of that name.
 */
export function resolveLimits(changes: LimitChanges = {}): Limits {
  const set = Object.entries(changes).filter(([, value]) => value !== undefined)
  for (const [name, value] of set) {
    if (!Object.hasOwn(defaultLimits, name)) {
      throw new RuntimeError('INVALID_ARGUMENT', `ttrpc has no option ${name}; its limits are ${Object.keys(defaultLimits).join(', ')}`)
    }
    if (typeof value === 'number' && value >= 1) continue
    throw new RuntimeError('INVALID_ARGUMENT', `ttrpc limit ${name} is ${value}; expected a number of at least 1`)
  }
  return { ...defaultLimits, ...Object.fromEntries(set) }
}
