/** As much of the OCI runtime specification as the agent reads. Everything else passes through untouched. */
import { RuntimeError } from '#shared/errors.ts'
import { parseJson } from '#shared/json.ts'

export interface OciMount {
  readonly destination: string
  readonly type?: string
  readonly source?: string
  readonly options?: readonly string[]
}

export interface OciNamespace {
  readonly type: string
  readonly path?: string
}

export interface OciProcess {
  readonly args?: readonly string[]
  readonly cwd?: string
  readonly terminal?: boolean
  readonly apparmorProfile?: string
  readonly selinuxLabel?: string
  readonly oomScoreAdj?: number
  readonly [other: string]: unknown
}

export interface OciResources {
  readonly [other: string]: unknown
}

export interface OciLinux {
  readonly namespaces?: readonly OciNamespace[]
  readonly resources?: OciResources
  readonly cgroupsPath?: string
  readonly [other: string]: unknown
}

export interface OciSpec {
  readonly ociVersion?: string
  readonly root?: { readonly path?: string; readonly readonly?: boolean }
  readonly process?: OciProcess
  readonly mounts?: readonly OciMount[]
  readonly linux?: OciLinux
  readonly [other: string]: unknown
}

type Shape = 'object' | 'array' | 'string' | 'boolean' | 'number'

/** Where each field the agent reads must have which shape. Missing is fine. */
const shapes: Readonly<Record<string, Shape>> = {
  root: 'object',
  process: 'object',
  mounts: 'array',
  linux: 'object',
  'root.path': 'string',
  'process.args': 'array',
  'process.cwd': 'string',
  'process.terminal': 'boolean',
  'process.oomScoreAdj': 'number',
  'linux.namespaces': 'array',
  'linux.resources': 'object',
}

/** A spec of the right shape. Throws INVALID_ARGUMENT naming the field that is not. */
export function parseSpec(bytes: Buffer, about: string): OciSpec {
  const spec = parseObject(bytes, about)
  for (const part of ['root', 'process', 'linux']) if (isRecord(spec[part])) spec[part] = withoutNulls(spec[part])
  checkShapes(spec, shapes, about)
  checkList(spec.mounts, 'mounts', 'destination', about)
  checkList(asObject(spec.linux).namespaces, 'linux.namespaces', 'type', about)
  checkStrings(asObject(spec.process).args, 'process.args', about)
  return spec
}

/** Entries are objects that have a string under `key`. */
function checkList(list: unknown, path: string, key: string, about: string): void {
  if (!Array.isArray(list)) return
  for (const entry of list) if (typeof asObject(entry)[key] !== 'string') refuse(about, `${path}[].${key}`, 'string')
}

function checkStrings(list: unknown, path: string, about: string): void {
  if (Array.isArray(list) && list.some((entry) => typeof entry !== 'string')) refuse(about, `${path}[]`, 'string')
}

/** An OCI process object, as Exec carries it. */
export function parseProcess(bytes: Buffer, about: string): OciProcess {
  const process = parseObject(bytes, about)
  checkShapes(process, { args: 'array', cwd: 'string', terminal: 'boolean', oomScoreAdj: 'number' }, about)
  const { args } = process
  if (!Array.isArray(args) || args.length === 0 || args.some((arg) => typeof arg !== 'string')) refuse(about, 'args', 'non-empty array of strings')
  return process
}

/** An OCI LinuxResources object, as Update carries it. */
export function parseResources(bytes: Buffer, about: string): OciResources {
  return parseObject(bytes, about)
}

function parseObject(bytes: Buffer, about: string): Record<string, unknown> {
  const value = parseJson(bytes.toString('utf8'), about)
  if (shapeOf(value) !== 'object') throw new RuntimeError('INVALID_ARGUMENT', `${about}: expected a JSON object`)
  return withoutNulls(asObject(value))
}

/** Go writes what it has not as null: the same as nothing. */
function withoutNulls(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== null))
}

function checkShapes(value: Record<string, unknown>, expected: Readonly<Record<string, Shape>>, about: string): void {
  for (const [path, shape] of Object.entries(expected)) {
    let at: unknown = value
    for (const key of path.split('.')) at = asObject(at)[key]
    if (at !== undefined && shapeOf(at) !== shape) refuse(about, path, shape)
  }
}

function refuse(about: string, path: string, expected: string): never {
  throw new RuntimeError('INVALID_ARGUMENT', `${about}: expected ${path} to be of type ${expected}`)
}

function shapeOf(value: unknown): string {
  return Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value
}

/** The value as a record; anything else reads as an empty one. */
export function asObject(value: unknown): Record<string, unknown> {
  return isRecord(value) ? value : {}
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
