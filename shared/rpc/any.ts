/**
 * google.protobuf.Any: a message with its name.
 *
 * containerd writes the bare name ("containerd.events.TaskExit") where Google's own libraries put
 * "type.googleapis.com/" before it, and reads both (typeurl). So does this: what counts is what follows the last slash.
 */
import type { PackageDefinition } from '@grpc/proto-loader'
import { RuntimeError } from '../errors.ts'
import { isMessage } from './definition.ts'
import type { Messages } from './gen/messages.ts'

export type MessageName = keyof Messages
/** What to give for a message: every field optional. */
export type MessageIn<N extends MessageName> = Messages[N]['in']
/** A message as it was read: defaults filled in. */
export type MessageOut<N extends MessageName> = Messages[N]['out']

export interface AnyValue {
  readonly type_url: string
  readonly value: Buffer
}

export interface AnyCodec {
  /** INTERNAL when this build has no definition of the message. */
  pack<N extends MessageName>(name: N, message: MessageIn<N>): { type_url: N; value: Buffer }
  /** INVALID_ARGUMENT when there is nothing, another type, or bytes that are no such message. */
  unpack<N extends MessageName>(any: AnyValue | null | undefined, name: N): MessageOut<N>
}

/** The bare name of the message inside. */
export function typeName(any: AnyValue): string {
  return any.type_url.slice(any.type_url.lastIndexOf('/') + 1)
}

export function anyCodec(definition: PackageDefinition): AnyCodec {
  const message = (name: MessageName) => {
    const found = definition[name]
    if (!isMessage(found)) throw new RuntimeError('INTERNAL', `no definition of ${name} is loaded`)
    return found
  }
  return {
    pack: (name, value) => ({ type_url: name, value: message(name).serialize(value) }),
    unpack(any, name) {
      if (any === null || any === undefined) throw new RuntimeError('INVALID_ARGUMENT', `expected a ${name}, got nothing`)
      if (typeName(any) !== name) {
        throw new RuntimeError('INVALID_ARGUMENT', `expected a ${name}, got "${any.type_url.slice(0, typeUrlShownMax)}"`)
      }
      try {
        return message(name).deserialize(any.value)
      } catch (cause) {
        if (cause instanceof RuntimeError) throw cause
        throw new RuntimeError('INVALID_ARGUMENT', `${any.value.length} bytes are no ${name}`, { cause })
      }
    },
  }
}

/**
 * An Any whose value is JSON, as containerd packs OCI objects
 * ("types.containerd.io/opencontainers/runtime-spec/1/Spec").
 */
export function packJson(typeUrl: string, value: unknown): { type_url: string; value: Buffer } {
  return { type_url: typeUrl, value: Buffer.from(JSON.stringify(value)) }
}

/** The JSON inside; `what` names it in the INVALID_ARGUMENT that nothing, or no JSON, ends in. */
export function unpackJson(any: AnyValue | null | undefined, what: string): unknown {
  if (any === null || any === undefined) throw new RuntimeError('INVALID_ARGUMENT', `${what} is missing`)
  try {
    return JSON.parse(any.value.toString('utf8'))
  } catch (cause) {
    throw new RuntimeError('INVALID_ARGUMENT', `${what} is no JSON`, { cause })
  }
}

/** Characters of a foreign type_url shown in an error. */
const typeUrlShownMax = 120
