/**
 * Writes shared/rpc/gen from proto/: the message types (by proto-loader-gen-types), one table of all services and one
 * of all messages, and the guest's definitions as JSON text.
 *
 *     node tools/gen-rpc.ts OUTPUT_DIRECTORY
 *
 * The directory appears whole or not at all, so a build and a test may run it at the same time.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import type { PackageDefinition } from '@grpc/proto-loader'
import { isMessage, isService } from '../shared/rpc/definition.ts'
import { loadProtos, protoDir, protoFiles } from '../shared/rpc/load.ts'
import { messageOptions } from '../shared/rpc/options.ts'
import { messageTable, serviceTable } from './gen-tables.ts'
import { guestDescriptorJson } from './guest-descriptor.ts'

function generateTypes(outDir: string): void {
  const bin = join(dirname(createRequire(import.meta.url).resolve('@grpc/proto-loader')), '../bin/proto-loader-gen-types.js')
  const { defaults, oneofs, keepCase } = messageOptions
  const { status, stderr } = spawnSync(
    process.execPath,
    [
      bin,
      `--longs=${messageOptions.longs.name}`,
      `--enums=${messageOptions.enums.name}`,
      `--keepCase=${keepCase}`,
      `--defaults=${defaults}`,
      `--oneofs=${oneofs}`,
      '--grpcLib=@grpc/grpc-js',
      '--importFileExtension=.ts',
      `--includeDirs=${protoDir}`,
      `--outDir=${outDir}`,
      ...protoFiles(),
    ],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(`proto-loader-gen-types ended with ${status}: ${stderr}`)
  // One file per .proto, for grpc-js's own loader. Files of one base name overwrite each other; nothing reads them.
  for (const name of readdirSync(outDir)) if (name.endsWith('.ts')) rmSync(join(outDir, name))
}

/** Messages and services of ours; well-known types nobody imports have no generated file. */
function generateTables(outDir: string, definition: PackageDefinition): void {
  const files = new Set(readdirSync(outDir, { recursive: true, encoding: 'utf8' }))
  const names = Object.keys(definition).filter((name) => files.has(`${name.replaceAll('.', '/')}.ts`)).sort()
  const of = (is: typeof isMessage | typeof isService) => names.filter((name) => is(definition[name]))
  writeFileSync(join(outDir, 'messages.ts'), messageTable(of(isMessage)))
  writeFileSync(join(outDir, 'services.ts'), serviceTable(of(isService), definition))
}

function replaceDirectory(from: string, to: string): void {
  const old = `${to}.old.${process.pid}`
  try {
    renameSync(to, old)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
  }
  renameSync(from, to)
  rmSync(old, { recursive: true, force: true })
}

const target = process.argv[2]
if (target === undefined) throw new Error('name the output directory: node tools/gen-rpc.ts shared/rpc/gen')
const outDir = resolve(target)
const work = `${outDir}.new.${process.pid}`
try {
  mkdirSync(work, { recursive: true })
  generateTypes(work)
  generateTables(work, loadProtos())
  writeFileSync(
    join(work, 'guest-descriptor.ts'),
    `/** The guest's part of proto/, for loadJson. */\nexport const guestDescriptor = ${JSON.stringify(guestDescriptorJson())}\n`,
  )
  writeFileSync(join(work, '.stamp'), '')
  replaceDirectory(work, outDir)
} finally {
  rmSync(work, { recursive: true, force: true })
}
