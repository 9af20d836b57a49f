/**
 * A sandbox's record on disk: all that is needed to find it again after any crash of the sandboxer, and to undo it.
 * Secrets never get in: no environment, no container spec, no image credential.
 */
import { z } from 'zod'
import { RuntimeError, explain } from '#shared/errors.ts'
import { routePreferences, routeTypes } from '#shared/network.ts'
import type { OwnedResource } from './ownership.ts'

/** Raised when older sandboxers could not read the record; newer ones read every older version. */
export const RECORD_VERSION = 1

const text = z.string()
const resource = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('process'), name: text, pid: z.int().positive().exactOptional(), startTicks: text.exactOptional() }),
  z.object({ kind: z.literal('mount'), target: text, containerId: text.exactOptional(), point: text.exactOptional() }),
  z.object({ kind: z.literal('directory'), path: text, containerId: text.exactOptional() }),
  z.object({ kind: z.literal('file'), path: text }),
  z.object({ kind: z.literal('cgroup'), path: text }),
  z.object({ kind: z.literal('link'), netns: text, name: text, uplink: text.exactOptional() }),
])

const network = z.object({
  links: z
    .array(
      z.object({
        name: text,
        mac: text,
        mtu: z.int(),
        addresses: z.array(z.object({ local: text, peer: text, broadcast: text, scope: z.int(), deprecated: z.boolean().default(false) })).readonly(),
        down: z.boolean(),
        noarp: z.boolean(),
      }),
    )
    .readonly(),
  routes: z
    .array(
      z.object({
        family: z.literal([4, 6]),
        type: z.literal(routeTypes),
        destination: text,
        hops: z.array(z.object({ link: text, gateway: text, weight: z.int(), onlink: z.boolean() })).readonly(),
        source: text,
        metric: z.int(),
        scope: z.int(),
        protocol: z.int(),
        mtu: z.int(),
        advmss: z.int(),
        preference: z.literal(routePreferences).default('medium'),
      }),
    )
    .readonly(),
  neighbours: z.array(z.object({ address: text, mac: text, link: text })).readonly(),
})

const span = z.object({
  name: text,
  startMs: z.number(),
  endMs: z.number(),
  source: text,
  attributes: z.record(text, text).exactOptional(),
})

const schema = z.object({
  version: z.literal(RECORD_VERSION),
  id: text,
  /** The sandboxer name containerd sent: names the backend */
  sandboxer: text,
  /** containerd's namespace */
  namespace: text,
  /** Of /proc/sys/kernel/random/boot_id: pids and mounts of another boot are gone */
  bootId: text,
  createdAtMs: z.number(),
  pod: z.object({ name: text, namespace: text, uid: text, attempt: z.number() }),
  /** "warm": of a VM that has no pod yet, so `pod`, `namespace` and `plan.guest` are empty */
  state: z.enum(['warm', 'created', 'starting', 'ready', 'stopping', 'stopped']),
  plan: z.object({
    vcpus: z.int(),
    memoryMiB: z.int(),
    netnsPath: text.optional(),
    cgroupPath: text,
    annotations: z.record(text, text),
    guest: z.object({
      hostname: text,
      dns: z.object({ servers: z.array(text).readonly(), searches: z.array(text).readonly(), options: z.array(text).readonly() }),
      sysctls: z.record(text, text),
      hostsLines: z.array(text).readonly(),
      shmBytes: z.number(),
      hugepagesMiB: z.int().default(0),
      memoryLimitBytes: z.number().default(0),
    }),
  }),
  /** The warm VM that it took over, which names the directory; its own id otherwise */
  vm: text.optional(),
  /** What the guest was told of its network last; none before the start and in a pod without a namespace */
  network: network.exactOptional(),
  /** Its network cards */
  nics: z.array(z.object({ tap: text, mac: text, queues: z.int() })).readonly().exactOptional(),
  readyAtMs: z.number().exactOptional(),
  taskAddress: text.exactOptional(),
  vmmPid: z.int().exactOptional(),
  /** The backend's own, opaque here */
  adoption: z.unknown().exactOptional(),
  agent: z.object({ version: text, kernel: text, protocol: z.int() }).exactOptional(),
  /** `console`: the guest's last lines, of a sandbox that died */
  exit: z.object({ status: z.int(), atMs: z.number(), reason: text, console: z.array(text).readonly().exactOptional() }).exactOptional(),
  owned: z.array(resource).readonly(),
  spans: z.array(span).readonly(),
  cgroupProcs: z.array(text).readonly(),
  /** Prepared and not released */
  containers: z.array(text).readonly(),
  /** Sequence number of the last event handed on */
  published: z.string().regex(/^\d{1,20}$/),
})

type Parsed = z.output<typeof schema>
export type SandboxRecord = { readonly [K in keyof Parsed]: Parsed[K] }

/** Errors: INVALID_ARGUMENT for anything that is not a record of this version. */
export function parseRecord(json: string, at: string): SandboxRecord {
  let raw: unknown
  try {
    raw = JSON.parse(json)
  } catch (error) {
    throw new RuntimeError('INVALID_ARGUMENT', `${at} is not JSON: ${explain(error)}`, { cause: error })
  }
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw new RuntimeError('INVALID_ARGUMENT', `${at} is not a sandbox record: ${issue?.path.join('.')}: ${issue?.message}`)
}

export const formatRecord = (record: SandboxRecord): string => JSON.stringify(record, null, 1)

export type { OwnedResource }
