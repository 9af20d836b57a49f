import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Options } from '@grpc/proto-loader'

/** The corner of protobuf.js used here; proto-loader brings the package along and is the one to name its version. */
interface Protobuf {
  readonly Root: new () => Root
}

interface Root {
  resolvePath: (origin: string, target: string) => string
  loadSync(files: readonly string[], options: object): Root
  resolveAll(): Root
  toJSON(): object
}

/**
 * Parses .proto files, and what they import, into protobuf.js's JSON. Names are looked up in the directories in turn;
 * google/protobuf/*.proto are protobuf.js's own.
 */
export function readProtos(directories: readonly string[], files: readonly string[], options: Options): object {
  const protobuf: Protobuf = createRequire(createRequire(import.meta.url).resolve('@grpc/proto-loader'))('protobufjs')
  const root = new protobuf.Root()
  root.resolvePath = (origin, target) => {
    const found = directories.map((directory) => join(directory, target)).find((path) => existsSync(path))
    if (found === undefined) throw new Error(`${origin} imports ${target}, which is in none of: ${directories.join(', ')}`)
    return found
  }
  return root.loadSync(files, options).resolveAll().toJSON()
}
