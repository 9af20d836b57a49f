import { fromJSON, type PackageDefinition } from '@grpc/proto-loader'
import { isMessage } from './definition.ts'
import { messageOptions } from './options.ts'

/** Definitions from protobuf.js's JSON, as shared/rpc/gen/guest-descriptor.ts holds it. Reads no file. */
export function loadJson(text: string): PackageDefinition {
  return fromJSON(JSON.parse(text), messageOptions)
}

/**
 * Makes protobuf.js write its codecs now. It writes each at first use, which costs the first call of every method a
 * few milliseconds; in a start-up snapshot the cost is paid when the snapshot is built.
 */
export function warmCodecs(definition: PackageDefinition): void {
  for (const message of Object.values(definition)) {
    if (isMessage(message)) message.deserialize(message.serialize({}))
  }
}
