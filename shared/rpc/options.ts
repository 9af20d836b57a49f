import type { Options } from '@grpc/proto-loader'

/**
 * How messages look in JavaScript. The generated types (make gen) are made with the same choices; a change here needs
 * one there, which tools/gen-rpc.ts reads from this object.
 *
 * Names are camelCase, but for google.protobuf.Any, which keeps `type_url`. 64-bit integers are decimal strings, since
 * nanoseconds since the epoch exceed 2⁵³. Bytes are Buffers that may alias the buffer they were decoded from: copy
 * before keeping one. An enum value this build does not know is read as its number.
 */
export const messageOptions = {
  keepCase: false,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
} as const satisfies Options
