/**
 * Finds and loads the native addon. Loading happens on the first call and never at import, so a module that imports
 * this one may live in a V8 start-up snapshot: no native pointer is ever serialised.
 */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { OsError } from './error.ts'
import { hasAddonVersion, loadAddon } from './load.ts'
import type { VsockAddon } from './vsock/addon.ts'

export const ADDON_ENV = 'KUASAR_OS_ADDON'

/** Where the guest image and packages install it. */
export const ADDON_INSTALLED_PATH = '/usr/lib/kuasar/os.node'

/** What the addon exports: one function per system call. All throw an Error with `code`, `syscall` and `errno`. */
export interface Addon extends VsockAddon {
  unixListen(path: string): number
  unixAccept(listener: number): number
  receiveFd(fd: number): number
  pipe(): readonly [readFd: number, writeFd: number]
  resize(fd: number, columns: number, rows: number): void
  mount(source: string, target: string, type: string, flags: number, data: string): void
  unmount(target: string, flags: number): void
  restrict(target: string): void
  pidfdOpen(pid: number): number
  setHostname(name: string): void
  setRealtime(unixNanos: bigint): void
  bootTime(): bigint
  powerOff(): void
  localhostListen(netnsPath: string): readonly [listener: number, attachment: number]
  spawn(file: string, argv: readonly string[], env: readonly string[], stdin: number, stdout: number, stderr: number): readonly [pid: number, pidfd: number]
  waitChild(pid: number): number | undefined
}

let loaded: Addon | undefined

/** The addon, loaded once per process. Errors: OsError with what to do when it is missing or of another version. */
export function addon(): Addon {
  loaded ??= loadAddon(locate(), isAddon, 'rebuild it with `make os-addon`')
  return loaded
}

/** Where the addon is: KUASAR_OS_ADDON alone when set, else the build directory of the checkout, else the installed path. */
export function locate(env: NodeJS.ProcessEnv = process.env): string {
  const named = env[ADDON_ENV]
  const candidates = named === undefined ? [...builtPaths(), ADDON_INSTALLED_PATH] : [named]
  const found = candidates.find((path) => existsSync(path))
  if (found !== undefined) return found
  const hint = named === undefined ? 'run `make os-addon`' : `correct or unset ${ADDON_ENV}`
  throw new OsError('ENOENT', 'open', `the native addon is not at ${candidates.join(' nor at ')}; ${hint}`)
}

/** The output of `make os-addon`, seen from this source file; nothing once bundled, when there is no such file. */
function builtPaths(): string[] {
  const directory: unknown = import.meta.dirname
  return typeof directory === 'string' ? [resolve(directory, '../../build/os/os.node')] : []
}

const isAddon = (exports: unknown): exports is Addon => hasAddonVersion(exports)
