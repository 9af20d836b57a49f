/**
 * What the planner must know of the host paths a container binds. Each is opened once and stays open until it has
 * been mounted from that very descriptor, so nothing can be swapped between the look and the mount.
 */
import { constants } from 'node:fs'
import { posix } from 'node:path'
import { open, readFile, readlink, statfs, type FileHandle } from 'node:fs/promises'
import { RuntimeError } from '#shared/errors.ts'
import type { Gate } from '#shared/gate.ts'
import { isErrno } from '#shared/os/error.ts'
import { mountIdOf, mountOfDescriptor, mountsBelow } from '../sandbox/mounts.ts'
import { inMemory, type SourceFacts } from './source.ts'

/** open(2): a descriptor that only stands for the path; opens sockets and devices without touching them. */
const O_PATH = 0o10000000

export interface Sources extends AsyncDisposable {
  readonly facts: ReadonlyMap<string, SourceFacts>
  /** A path that leads to what was looked at, whatever has the name now. */
  pinned(source: string): string
}

/**
 * `gate`: how many are looked at together. A file system whose server is gone holds one of Node's few threads for each look,
 * for as long as it likes.
 * Errors: FAILED_PRECONDITION when a source is reached through a symbolic link. CRI hands over resolved paths
 * (containerd's WithMounts), so a link has been planted since, or another client was careless.
 */
export async function openSources(paths: readonly string[], gate: Gate, signal: AbortSignal): Promise<Sources> {
  const handles = new Map<string, FileHandle>()
  const facts = new Map<string, SourceFacts>()
  const close = async () => void (await Promise.allSettled([...handles.values()].map((handle) => handle.close())))
  const lookAt = async (path: string) => {
    const handle = await openPath(path)
    if (handle !== undefined) handles.set(path, handle)
    facts.set(path, handle === undefined ? { kind: 'missing' } : await look(path, handle))
  }
  // All of them end, so that none opens a descriptor after the others were closed.
  const outcomes = await Promise.allSettled([...new Set(paths)].map((path) => gate.run(() => lookAt(path))))
  const failed = outcomes.find((outcome) => outcome.status === 'rejected')
  if (failed !== undefined || signal.aborted) {
    await close()
    throw failed === undefined ? signal.reason : failed.reason
  }
  return {
    facts,
    pinned(source) {
      const handle = handles.get(source)
      if (handle === undefined) throw new RuntimeError('INTERNAL', `${source} was not looked at`)
      return descriptorPath(handle)
    },
    [Symbol.asyncDispose]: close,
  }
}

const descriptorPath = (handle: FileHandle): string => `/proc/self/fd/${handle.fd}`

async function openPath(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, O_PATH | constants.O_NOFOLLOW)
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined
    throw error
  }
}

async function look(path: string, handle: FileHandle): Promise<SourceFacts> {
  const stat = await handle.stat()
  const actual = await readlink(descriptorPath(handle))
  if (stat.isSymbolicLink() || actual !== path.replace(/(?<=.)\/+$/, ''))
    throw new RuntimeError(
      'FAILED_PRECONDITION',
      `mount source ${path} is reached through a symbolic link${stat.isSymbolicLink() ? '' : ` (it is ${actual})`}; name the path itself`,
    )
  const { uid, gid } = stat
  if (stat.isDirectory()) {
    const { type, blocks, bsize } = await statfs(descriptorPath(handle))
    const hasMounts = (await mountsBelow(actual)).some((point) => point !== actual)
    const fileSystem = { fsType: type, fsBytes: blocks * bsize, fsBlockBytes: bsize }
    const identity = await identityOf(handle)
    const facts = { kind: 'directory', identity, ...fileSystem, mode: stat.mode & 0o7777, uid, gid, hasMounts } as const
    return inMemory(type) ? { ...facts, fsPath: await pathInFileSystem(handle, actual) } : facts
  }
  if (stat.isFile()) return { kind: 'file', identity: await identityOf(handle), fsType: (await statfs(descriptorPath(handle))).type }
  if (stat.isCharacterDevice() || stat.isBlockDevice())
    return { kind: stat.isBlockDevice() ? 'block' : 'char', ...deviceNumber(stat.rdev) }
  return { kind: stat.isSocket() ? 'socket' : 'fifo' }
}

async function identityOf(handle: FileHandle): Promise<string> {
  const [{ dev, ino }, info] = await Promise.all([handle.stat({ bigint: true }), readFile(`/proc/self/fdinfo/${handle.fd}`, 'latin1')])
  return `${dev.toString(36)}.${ino.toString(36)}.${mountIdOf(info)}`
}

/** A bind shows a part of a file system: the mount knows which. */
async function pathInFileSystem({ fd }: FileHandle, path: string): Promise<string> {
  const [info, table] = await Promise.all([readFile(`/proc/self/fdinfo/${fd}`, 'latin1'), readFile('/proc/self/mountinfo', 'utf8')])
  const mount = mountOfDescriptor(info, table)
  if (mount === undefined) throw new RuntimeError('INTERNAL', `the mount of ${path} is not in the mount table`)
  return posix.join(mount.root, path.slice(mount.point.length))
}

/** glibc's makedev(3): 12 bits of major around 8 + 12 bits of minor, high halves above. */
function deviceNumber(rdev: number): { major: number; minor: number } {
  const number = BigInt(rdev)
  return {
    major: Number(((number >> 8n) & 0xfffn) | ((number >> 32n) & 0xfffff000n)),
    minor: Number((number & 0xffn) | ((number >> 12n) & 0xffffff00n)),
  }
}
