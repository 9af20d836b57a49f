/**
 * The one message of which there are thousands a second, encoded by hand: protobuf.js makes two buffers for each, and
 * their collection was most of what a flood of output cost the agent. A test holds it to the generated encoding.
 *
 *   google.protobuf.Any { 1: type_url, 2: value = containerd.types.transfer.Data { 1: data } }
 */
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Service } from '#shared/ttrpc/method.ts'
import { fieldSize, writeField, writeVarint } from '#shared/ttrpc/protobuf.ts'
import { DATA_BYTES_MAX } from '../streams/reader.ts'

const DATA_TYPE = 'containerd.types.transfer.Data'
const typeField = Buffer.alloc(fieldSize(DATA_TYPE.length))
writeField(typeField, 0, 1, Buffer.from(DATA_TYPE))

/** Tag of field 2, length-delimited. */
const VALUE_TAG = 0x12

/** An Any that knows its encoding. */
export class EncodedData {
  readonly type_url = DATA_TYPE
  /** Never read: `bytes` stands for all of it. */
  readonly value = Buffer.alloc(0)
  bytes: Buffer = Buffer.alloc(0)
}

/** Encodes into the same memory again and again: a message must have been sent before the next is made. */
export class DataEncoder {
  readonly #scratch = Buffer.allocUnsafeSlow(typeField.length + fieldSize(fieldSize(DATA_BYTES_MAX)))
  readonly #message = new EncodedData()

  constructor() {
    typeField.copy(this.#scratch)
  }

  /** `data`: DATA_BYTES_MAX at most. */
  encode(data: Buffer): EncodedData {
    const value = fieldSize(data.length)
    let at = typeField.length
    this.#scratch[at] = VALUE_TAG
    at = writeVarint(this.#scratch, at + 1, value)
    at = writeField(this.#scratch, at, 1, data)
    this.#message.bytes = this.#scratch.subarray(0, at)
    return this.#message
  }
}

/** The Streaming service whose answers may be EncodedData. */
export function withEncodedData(service: Service<ServiceTypesOf<'streaming'>>): Service<ServiceTypesOf<'streaming'>> {
  const { Stream } = service.methods
  const responseSerialize = (answer: unknown) => (answer instanceof EncodedData ? answer.bytes : Stream.responseSerialize(answer))
  return { ...service, methods: { Stream: { ...Stream, responseSerialize } } }
}
