#!/usr/bin/env node
/**
 * `npx node-vsock-build`: builds the addon for a machine that the package has none for, with its C compiler, against the
 * headers of the Node that runs this. Nothing is downloaded. No install script: npm 11 and pnpm 10 do not run those unasked.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { BUILT_PATH, ownAddon, PACKAGE_ROOT } from './own-addon.ts'

const NATIVE = join(PACKAGE_ROOT, 'native')

if (process.platform !== 'linux') fail(`AF_VSOCK is a socket family of Linux; this is ${process.platform}. Imports and types work here, each call fails with EAFNOSUPPORT.`)
build()
console.log(`node-vsock: built ${BUILT_PATH}`)

function build(): void {
  const [compiler = 'cc', ...given] = (process.env['CC'] ?? 'cc').trim().split(/\s+/)
  const sources = readdirSync(NATIVE).filter((name) => name.endsWith('.c')).map((name) => join(NATIVE, name))
  const unfinished = `${BUILT_PATH}.${process.pid}`
  const args = [...given, `@${join(NATIVE, 'cc-flags')}`, '-DVSOCK_ALONE', '-isystem', findHeaders(), '-o', unfinished, ...sources]
  mkdirSync(dirname(BUILT_PATH), { recursive: true })
  const { error, status, signal, stdout, stderr } = spawnSync(compiler, args, { encoding: 'utf8' })
  if (error !== undefined) {
    fail(
      `the C compiler ${JSON.stringify(compiler)} cannot be run: ${error.message}`,
      'Debian, Ubuntu: apt install gcc libc6-dev',
      'Fedora:         dnf install gcc',
      'Alpine:         apk add gcc musl-dev linux-headers',
      'Another compiler is named by the environment variable CC.',
    )
  }
  if (status !== 0) fail(`the addon does not compile (${signal ?? `exit code ${status}`}): ${[compiler, ...args].join(' ')}`, `${stdout}${stderr}`.trim())
  renameSync(unfinished, BUILT_PATH)
  try {
    ownAddon()
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error))
  }
}

/** The folder of node_api.h and uv.h: what npm's `nodedir` names, which may be another Node's, or what was installed with this one. */
function findHeaders(): string {
  const { npm_config_nodedir: named } = process.env
  const prefixes = [...(named === undefined ? [] : [named]), dirname(dirname(process.execPath)), process.config.variables.node_prefix]
  const looked: string[] = []
  for (const folder of new Set(prefixes.map((prefix) => join(prefix, 'include/node')))) {
    const major = majorOf(folder)
    if (major !== undefined && major === process.versions.node.split('.')[0]) return folder
    looked.push(`${folder} ${major === undefined ? 'is not there' : `is of Node ${major}`}`)
  }
  return fail(
    `the headers of Node ${process.versions.node} were not found: ${looked.join(', ')}`,
    'Node from nodejs.org, its container images and version managers bring them. Debian, Ubuntu: apt install libnode-dev;',
    'Alpine: apk add nodejs-dev. Elsewhere set npm_config_nodedir to the folder that has include/node/node_api.h.',
  )
}

/** The Node that headers belong to; undefined when there are none. */
function majorOf(folder: string): string | undefined {
  const file = join(folder, 'node_version.h')
  if (!existsSync(file)) return undefined
  return /^#define NODE_MAJOR_VERSION (\d+)$/m.exec(readFileSync(file, 'utf8'))?.[1]
}

function fail(...lines: string[]): never {
  console.error(lines.map((line, index) => (index === 0 ? `node-vsock: ${line}` : `  ${line}`)).join('\n'))
  process.exit(1)
}
