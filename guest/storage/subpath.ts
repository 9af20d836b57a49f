/**
 * A directory (or file) of a volume, bound where its container finds it. The volume is the containers' to write, and the
 * agent is root, so it is walked component by component from descriptors: a symbolic link on the way leads nowhere, and
 * what is bound is what was looked at, whatever has the name by then.
 */
import { closeSync, constants, fchmodSync, fchownSync, fstatSync, mkdirSync, openSync, readlinkSync } from 'node:fs'
import { RuntimeError } from '#shared/errors.ts'

/** open(2): a descriptor that only stands for the path. */
const O_PATH = 0o10000000

const descriptorPath = (fd: number): string => `/proc/self/fd/${fd}`

/** What the directories on the way are made with where they are missing, from options like "mode=0755". */
interface Making {
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/**
 * Calls `use` with a path that leads to `path=…` of the options, below `root`, for as long as the call lasts. Errors:
 * FAILED_PRECONDITION naming the component that is a symbolic link or no directory.
 */
export function withSubpath<T>(root: string, options: readonly string[], use: (path: string, isDirectory: boolean) => T): T {
  const option = (name: string) => options.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1) ?? ''
  const making = { mode: parseInt(option('mode'), 8) || 0o755, uid: Number(option('uid')), gid: Number(option('gid')) }
  const components = option('path').split('/').filter((part) => part !== '')
  if (components.some((part) => part === '.' || part === '..')) throw new RuntimeError('INVALID_ARGUMENT', `${option('path')} is no plain path`)
  let fd = openSync(root, O_PATH | constants.O_DIRECTORY)
  try {
    for (const component of components) {
      const next = openComponent(fd, component, making)
      closeSync(fd)
      fd = next
    }
    return use(descriptorPath(fd), fstatSync(fd).isDirectory())
  } finally {
    closeSync(fd)
  }
}

function openComponent(parent: number, name: string, making: Making): number {
  const path = `${descriptorPath(parent)}/${name}`
  makeDirectory(path, making)
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW)
  const stat = fstatSync(fd)
  if (stat.isDirectory() || stat.isFile()) return fd
  const shown = readlinkSync(descriptorPath(fd))
  closeSync(fd)
  const what = stat.isSymbolicLink() ? 'a symbolic link' : 'neither a directory nor a file'
  throw new RuntimeError('FAILED_PRECONDITION', `${shown} is ${what}: a subPath leads through directories of its volume only`)
}

/** Whatever is there already stays as it is. */
function makeDirectory(path: string, { mode, uid, gid }: Making): void {
  try {
    mkdirSync(path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return
    throw error
  }
  // By descriptor: a container that races us can put only a directory of its own in its place.
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  try {
    fchownSync(fd, uid, gid)
    fchmodSync(fd, mode)
  } finally {
    closeSync(fd)
  }
}
