/**
 * What a set of .proto files promises on the wire, as plain text by full name, so that two sets can be laid side by
 * side:
 *
 *     containerd.types.Mount.options                  4 repeated string
 *     containerd.types.Sandbox.extensions             7 map<string, google.protobuf.Any>
 *     containerd.v1.types.Status.RUNNING              = 2
 *     containerd.services.events.v1.Events/Subscribe  (….SubscribeRequest) → (stream containerd.types.Envelope)
 */
import { readProtos } from '../../tools/protobuf.ts'

export type Shape = ReadonlyMap<string, string>

/** protobuf.js's JSON of one namespace, message, enum or service. */
interface Node {
  readonly nested?: Readonly<Record<string, Node>>
  readonly fields?: Readonly<Record<string, Field>>
  readonly oneofs?: Readonly<Record<string, { readonly oneof: readonly string[] }>>
  readonly values?: Readonly<Record<string, number>>
  readonly methods?: Readonly<Record<string, Method>>
}

interface Field {
  readonly id: number
  readonly type: string
  readonly rule?: string
  readonly keyType?: string
  readonly options?: Readonly<Record<string, unknown>>
}

interface Method {
  readonly requestType: string
  readonly requestStream?: boolean
  readonly responseType: string
  readonly responseStream?: boolean
}

export function shapeOf(directories: readonly string[], files: readonly string[]): Shape {
  const root: Node = readProtos(directories, files, { keepCase: true })
  const shape = new Map<string, string>()
  const types = new Set(typeNames(root, ''))
  describe(root, '', types, shape)
  return shape
}

/**
 * Where `ours` says something else than `theirs`; empty when it is a part of it. Names below google.protobuf are
 * protobuf.js's on both sides, and those in `own` are nobody else's.
 */
export function contradictions(ours: Shape, theirs: Shape, own: RegExp): string[] {
  const found: string[] = []
  for (const [name, text] of ours) {
    if (own.test(name)) continue
    const wanted = theirs.get(name)
    if (wanted !== text) found.push(`${name}: ours is "${text}", theirs ${wanted === undefined ? 'has no such name' : `"${wanted}"`}`)
  }
  return found
}

const join = (scope: string, name: string) => (scope === '' ? name : `${scope}.${name}`)

function* typeNames(node: Node, scope: string): Iterable<string> {
  for (const [name, child] of Object.entries(node.nested ?? {})) {
    const full = join(scope, name)
    if (child.fields !== undefined || child.values !== undefined) yield full
    yield* typeNames(child, full)
  }
}

function describe(node: Node, name: string, types: ReadonlySet<string>, shape: Map<string, string>): void {
  const resolve = (type: string) => resolveType(type, name, types)
  if (node.fields !== undefined) shape.set(name, 'message')
  for (const [field, of] of Object.entries(node.fields ?? {})) {
    const oneof = Object.entries(node.oneofs ?? {}).find(([, { oneof }]) => oneof.includes(field))?.[0]
    shape.set(`${name}.${field}`, describeField(of, resolve, oneof))
  }
  if (node.values !== undefined) shape.set(name, 'enum')
  for (const [value, number] of Object.entries(node.values ?? {})) shape.set(`${name}.${value}`, `= ${number}`)
  if (node.methods !== undefined) shape.set(name, 'service')
  for (const [method, { requestType, requestStream, responseType, responseStream }] of Object.entries(node.methods ?? {})) {
    const side = (type: string, streams?: boolean) => `(${streams === true ? 'stream ' : ''}${resolve(type)})`
    shape.set(`${name}/${method}`, `${side(requestType, requestStream)} → ${side(responseType, responseStream)}`)
  }
  for (const [child, of] of Object.entries(node.nested ?? {})) describe(of, join(name, child), types, shape)
}

function describeField({ id, type, rule, keyType, options }: Field, resolve: (type: string) => string, oneof?: string): string {
  const of = keyType === undefined ? resolve(type) : `map<${keyType}, ${resolve(type)}>`
  const packed = options?.['packed'] === undefined ? [] : [`packed=${JSON.stringify(options['packed'])}`]
  return [id, rule, of, ...packed, oneof && `in oneof ${oneof}`].filter((part) => part !== undefined).join(' ')
}

/** protobuf's scoping: the innermost scope that knows the name wins; what nobody knows is a scalar. */
function resolveType(type: string, scope: string, types: ReadonlySet<string>): string {
  if (type.startsWith('.')) return type.slice(1)
  for (let at = scope; ; at = at.slice(0, Math.max(at.lastIndexOf('.'), 0))) {
    if (types.has(join(at, type))) return join(at, type)
    if (at === '') return type
  }
}
