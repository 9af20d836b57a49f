/** From a service definition of @grpc/proto-loader to a typed service. */
import { RuntimeError } from '../errors.ts'
import type { MethodDefinition, Service, ServiceTypes } from './method.ts'

/** A method as @grpc/proto-loader makes it, whatever its message types. */
interface LoadedMethod {
  readonly path: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  readonly requestSerialize: (value: never) => Buffer
  readonly requestDeserialize: (bytes: Buffer) => unknown
  readonly responseSerialize: (value: never) => Buffer
  readonly responseDeserialize: (bytes: Buffer) => unknown
}

/** What else there is under a name that @grpc/proto-loader loaded: a message or an enum. */
interface LoadedType {
  readonly format: string
}

/**
 * A service whose types are `T`. That they are the definition's own is the caller's claim: generate both from one
 * .proto file.
 * @throws RuntimeError INVALID_ARGUMENT when the .proto file defines no such service, or a method's path is not
 * `/package.Service/Method`
 */
export function serviceOf<T extends ServiceTypes>(definition: Readonly<Record<string, LoadedMethod>> | LoadedType | undefined): Service<T> {
  if (definition === undefined) throw new RuntimeError('INVALID_ARGUMENT', 'there is no definition of that name; expected a service, as package.Service')
  if (isType(definition)) throw new RuntimeError('INVALID_ARGUMENT', `that is the definition of a type (${definition.format}); expected a service`)
  const names = new Set(Object.values(definition).map((method) => splitPath(method.path).service))
  const [name, ...others] = names
  if (name === undefined || others.length > 0) {
    const all = [...names].join(', ')
    throw new RuntimeError('INVALID_ARGUMENT', `a ttrpc service has methods of one service, not of: ${all}`)
  }
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the caller's claim, see above
  return { name, methods: definition as { [K in keyof T]: MethodDefinition<unknown, unknown> } }
}

const isType = (definition: Readonly<Record<string, LoadedMethod>> | LoadedType): definition is LoadedType => typeof definition['format'] === 'string'

/** Service and method of `/package.Service/Method`. */
export function splitPath(path: string): { readonly service: string; readonly method: string } {
  const [root, service, method, ...rest] = path.split('/')
  if (root !== '' || !service || !method || rest.length > 0) {
    throw new RuntimeError('INVALID_ARGUMENT', `"${path}" is not a method's path; expected /package.Service/Method`)
  }
  return { service, method }
}
