import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { loadSync, type PackageDefinition } from '@grpc/proto-loader'
import { messageOptions } from './options.ts'

/** The repository's proto/, the only include directory there is. */
export const protoDir = fileURLToPath(new URL('../../proto', import.meta.url))

/** Every .proto file, relative to its include directory, in a stable order. */
export function protoFiles(directory = protoDir): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.proto')).sort()
}

/** Reads all of proto/ (about 60 ms). google/protobuf/*.proto come with protobuf.js. */
export function loadProtos(directory = protoDir): PackageDefinition {
  return loadSync(protoFiles(directory), { ...messageOptions, includeDirs: [directory] })
}
