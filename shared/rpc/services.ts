/**
 * Every service of the project as a value with exact types, ready for ttrpc and for grpc-js.
 *
 * The kinds of calls (unary, streaming) are part of the types, and generated; a loaded definition that says otherwise
 * is refused, so types and wire cannot part company.
 */
import type { MethodDefinition as LoaderMethod, PackageDefinition } from '@grpc/proto-loader'
import { RuntimeError } from '../errors.ts'
import type { CallKind, Service, ServiceTypes } from '../ttrpc/method.ts'
import { anyCodec, type AnyCodec } from './any.ts'
import { isService, kindOf } from './definition.ts'
import { callKinds, type Definitions } from './gen/services.ts'

type Kinds = typeof callKinds
export type ServiceName = keyof Kinds

type MethodTypesOf<Definition, Kind> =
  Definition extends LoaderMethod<infer In, infer Out, infer InRead, infer OutRead>
    ? { readonly kind: Kind; readonly in: In; readonly inRead: InRead; readonly out: Out; readonly outRead: OutRead }
    : never

/** The types of a service by its full name. */
export type TypesOf<S extends ServiceName> = {
  readonly [M in keyof Kinds[S]]: MethodTypesOf<Definitions[S]['methods'][M & string], Kinds[S][M]>
}

/** Short names for the services, in the order of the way a pod takes through them. */
const serviceNames = {
  runtime: 'runtime.v1.RuntimeService',
  images: 'runtime.v1.ImageService',
  controller: 'containerd.services.sandbox.v1.Controller',
  store: 'containerd.services.sandbox.v1.Store',
  containers: 'containerd.services.containers.v1.Containers',
  snapshots: 'containerd.services.snapshots.v1.Snapshots',
  tasks: 'containerd.services.tasks.v1.Tasks',
  events: 'containerd.services.events.v1.Events',
  version: 'containerd.services.version.v1.Version',
  task: 'containerd.task.v3.Task',
  streaming: 'containerd.services.streaming.v1.Streaming',
  host: 'kuasar.host.v1.Host',
  agent: 'kuasar.agent.v1.Agent',
  admin: 'kuasar.admin.v1.Admin',
} as const satisfies Record<string, ServiceName>

type Names = typeof serviceNames
export type ServiceKey = keyof Names

/** The types of a service by its short name: `Handlers<ServiceTypesOf<'task'>>`. */
export type ServiceTypesOf<K extends ServiceKey> = TypesOf<Names[K]>

/** Services by short name, and the means to pack messages into Any. */
export type Rpc<K extends ServiceKey = ServiceKey> = { readonly [P in K]: ServiceOf<ServiceTypesOf<P>> } & {
  readonly any: AnyCodec
}

type ServiceOf<T> = T extends ServiceTypes ? Service<T> : never

/** What the agent has definitions of. */
export const guestServices = ['task', 'streaming', 'agent', 'host'] as const satisfies readonly ServiceKey[]

/**
 * The services of a loaded definition; all of them, or those named by `keys`. Throws INTERNAL when one is missing or
 * differs from its types, which means that shared/rpc/gen is stale.
 */
export function loadServices(definition: PackageDefinition): Rpc
export function loadServices<K extends ServiceKey>(definition: PackageDefinition, keys: readonly K[]): Rpc<K>
export function loadServices(definition: PackageDefinition, keys?: readonly ServiceKey[]): object {
  const names = Object.entries(serviceNames).filter(([key]) => keys === undefined || keys.some((wanted) => wanted === key))
  const services = names.map(([key, name]) => [key, serviceOf(definition, name)])
  return { ...Object.fromEntries(services), any: anyCodec(definition) }
}

/** Finds and checks one service. `methods` is proto-loader's own object, so grpc-js takes it as it is. */
function serviceOf(definition: PackageDefinition, name: ServiceName): Service<ServiceTypes> {
  const found = definition[name]
  if (!isService(found)) throw new RuntimeError('INTERNAL', `no definition of the service ${name} is loaded`)
  const kinds: Readonly<Record<string, CallKind>> = callKinds[name]
  for (const [key, method] of Object.entries(found)) {
    if (kindOf(method) !== kinds[key]) {
      throw new RuntimeError('INTERNAL', `${name}/${key} is ${kindOf(method)}, its types say ${kinds[key]}: run make gen`)
    }
  }
  for (const method of Object.keys(kinds)) {
    if (!(method in found)) throw new RuntimeError('INTERNAL', `${name}/${method} is not defined: run make gen`)
  }
  return { name, methods: found }
}
