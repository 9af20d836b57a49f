/** Loads the native addon from a file. */
import { OsError } from './error.ts'

/** ADDON_VERSION of native/addon.h. */
export const ADDON_VERSION = 5

/** Errors: OsError ELIBBAD when it does not load or is of another version; `remedy` says how it is built again. */
export function loadAddon<A>(path: string, isAddon: (exports: unknown) => exports is A, remedy: string): A {
  const module: { exports: unknown } = { exports: {} }
  try {
    // require() of an addon does no more than this, and a snapshot's main function has no require for files.
    process.dlopen(module, path)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new OsError('ELIBBAD', 'dlopen', `${path} does not load: ${reason}; ${remedy}`, { cause: error })
  }
  if (isAddon(module.exports)) return module.exports
  throw new OsError('ELIBBAD', 'dlopen', `${path} is not version ${ADDON_VERSION} of the native addon; ${remedy}`)
}

export function hasAddonVersion(exports: unknown): boolean {
  return typeof exports === 'object' && exports !== null && 'version' in exports && exports.version === ADDON_VERSION
}
