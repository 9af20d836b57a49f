/**
 * The part of the OCI runtime spec the host reads; all else passes through untouched. Source: runtime-spec 1.2.
 * Objects are loose: a field unknown here is the guest's OCI runtime's to judge.
 */
import { z } from 'zod'
import { RuntimeError } from '#shared/errors.ts'
import { parseJson } from '#shared/json.ts'

/** What fits into the answer to Prepare, a ttrpc message of 4 MiB at most, beside the storages. */
export const SPEC_BYTES_MAX = 3 * 1024 * 1024

/** Each is a mount on the host; kubelet's pods have some ten. */
export const MOUNTS_MAX = 512

const path = z.string().refine((text) => text.startsWith('/') && !text.includes('\0'), 'expected an absolute path')
const words = z.array(z.string()).nullish().transform((list) => list ?? [])
const mappings = z.array(z.unknown()).nullish()

const mount = z.looseObject({
  destination: path,
  type: z.string().nullish(),
  source: z.string().nullish(),
  options: words,
  uidMappings: mappings,
  gidMappings: mappings,
})

const device = z.looseObject({
  path,
  type: z.string(),
  major: z.number().nullish(),
  minor: z.number().nullish(),
})

const hugepageLimit = z.looseObject({ pageSize: z.string(), limit: z.unknown() })

const resources = z.looseObject({
  cpu: z.looseObject({}).nullish(),
  hugepageLimits: z.array(hugepageLimit).nullish(),
})

const linux = z.looseObject({
  namespaces: z.array(z.looseObject({ type: z.string(), path: z.string().nullish() })).nullish(),
  uidMappings: mappings,
  gidMappings: mappings,
  devices: z.array(device).nullish(),
  resources: resources.nullish(),
  seccomp: z.looseObject({ listenerPath: z.string().nullish() }).nullish(),
})

const schema = z.looseObject({
  ociVersion: z.string(),
  process: z.looseObject({}),
  root: z.looseObject({}),
  mounts: z.array(mount).max(MOUNTS_MAX, `more than ${MOUNTS_MAX} mounts`).nullish().transform((list) => list ?? []),
  linux,
})

export type OciSpec = Readonly<z.output<typeof schema>>
export type OciMount = Readonly<z.output<typeof mount>>
export type OciDevice = Readonly<z.output<typeof device>>

/** Errors: INVALID_ARGUMENT naming the field, what it holds and what was expected. */
export function parseSpec(json: string, at: string): OciSpec {
  const result = schema.safeParse(parseJson(json, at))
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw new RuntimeError('INVALID_ARGUMENT', `${at} is not an OCI runtime spec for Linux: ${issue?.path.join('.')}: ${issue?.message}`)
}

/** True for a bind by its type or, as runc and crun also read it, by its options. */
export const isBind = ({ type, options }: OciMount): boolean => type === 'bind' || options.includes('bind') || options.includes('rbind')
