/** The addon of the package node-vsock, loaded on the first call. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { OsError } from '../error.ts'
import { hasAddonVersion, loadAddon } from '../load.ts'
import type { VsockAddon } from './addon.ts'

/** The package's own folder, seen from lib/vsock/. */
export const PACKAGE_ROOT = resolve(import.meta.dirname, '../..')

/** What build.ts makes. It goes before what came with the package. */
export const BUILT_PATH = resolve(PACKAGE_ROOT, 'build/vsock.node')

const MACHINE = `${process.platform}-${process.arch}`
const PREBUILT_PATH = resolve(PACKAGE_ROOT, `prebuilt/${MACHINE}.node`)
const REMEDY = 'build it here, with a C compiler: npx node-vsock-build'

let loaded: VsockAddon | undefined

/** Errors: OsError EAFNOSUPPORT elsewhere than on Linux, ENOENT on a machine that it was not built for, ELIBBAD when it does not load. */
export function ownAddon(): VsockAddon {
  loaded ??= load()
  return loaded
}

function load(): VsockAddon {
  if (process.platform !== 'linux') throw new OsError('EAFNOSUPPORT', 'socket', `AF_VSOCK is a socket family of Linux; this is ${process.platform}`)
  const path = [BUILT_PATH, PREBUILT_PATH].find((path) => existsSync(path))
  if (path === undefined) throw new OsError('ENOENT', 'open', `node-vsock has no addon for ${MACHINE}: neither ${BUILT_PATH} nor ${PREBUILT_PATH} is there; ${REMEDY}`)
  return loadAddon(path, isAddon, REMEDY)
}

function isAddon(exports: unknown): exports is VsockAddon {
  return hasAddonVersion(exports)
}
