/** Telling apart what a PackageDefinition holds. */
import type { AnyDefinition, MessageTypeDefinition } from '@grpc/proto-loader'
import type { CallKind, MethodDefinition } from '../ttrpc/method.ts'

export function isMessage(definition: AnyDefinition | undefined): definition is MessageTypeDefinition<object, object> {
  return definition !== undefined && definition['format'] === 'Protocol Buffer 3 DescriptorProto'
}

/** Methods by name, for grpc-js and for ttrpc. proto-loader's own type says less: messages there are `object`. */
export type ServiceMethods = Readonly<Record<string, MethodDefinition<unknown, unknown>>>

export function isService(definition: unknown): definition is ServiceMethods {
  return typeof definition === 'object' && definition !== null && !('format' in definition)
}

/** The kind of a call by which of its sides stream. */
export function kindOf({ requestStream, responseStream }: MethodDefinition<unknown, unknown>): CallKind {
  if (requestStream) return responseStream ? 'bidi' : 'client-stream'
  return responseStream ? 'server-stream' : 'unary'
}
