/** From OCI / fstab option words to the mount(2) calls they take. Pure; the flags are mount(2)'s. */
import type { MountRequest } from './contract.ts'
import { OsError } from './error.ts'

/** One mount(2) call. */
export interface MountCall {
  readonly source: string
  readonly type: string
  readonly flags: number
  readonly data: string
}

const MS = {
  RDONLY: 1,
  NOSUID: 1 << 1,
  NODEV: 1 << 2,
  NOEXEC: 1 << 3,
  SYNCHRONOUS: 1 << 4,
  REMOUNT: 1 << 5,
  DIRSYNC: 1 << 7,
  NOSYMFOLLOW: 1 << 8,
  NOATIME: 1 << 10,
  NODIRATIME: 1 << 11,
  BIND: 1 << 12,
  MOVE: 1 << 13,
  REC: 1 << 14,
  UNBINDABLE: 1 << 17,
  PRIVATE: 1 << 18,
  SLAVE: 1 << 19,
  SHARED: 1 << 20,
  RELATIME: 1 << 21,
  STRICTATIME: 1 << 24,
  LAZYTIME: 1 << 25,
} as const

/** Words that set flags. */
const setters: ReadonlyMap<string, number> = new Map(Object.entries({
  ro: MS.RDONLY,
  nosuid: MS.NOSUID,
  nodev: MS.NODEV,
  noexec: MS.NOEXEC,
  sync: MS.SYNCHRONOUS,
  dirsync: MS.DIRSYNC,
  nosymfollow: MS.NOSYMFOLLOW,
  noatime: MS.NOATIME,
  nodiratime: MS.NODIRATIME,
  relatime: MS.RELATIME,
  strictatime: MS.STRICTATIME,
  lazytime: MS.LAZYTIME,
  remount: MS.REMOUNT,
  bind: MS.BIND,
  rbind: MS.BIND | MS.REC,
}))

/** Words that clear what an earlier word set; the last one wins, as in mount(8). */
const clearers: ReadonlyMap<string, number> = new Map(Object.entries({
  defaults: 0,
  rw: MS.RDONLY,
  suid: MS.NOSUID,
  dev: MS.NODEV,
  exec: MS.NOEXEC,
  async: MS.SYNCHRONOUS,
  symfollow: MS.NOSYMFOLLOW,
  atime: MS.NOATIME,
  diratime: MS.NODIRATIME,
  norelatime: MS.RELATIME,
  nostrictatime: MS.STRICTATIME,
  nolazytime: MS.LAZYTIME,
}))

/** A change of propagation must be a call of its own, mount_namespaces(7). */
const propagations: ReadonlyMap<string, number> = new Map(Object.entries({
  private: MS.PRIVATE,
  rprivate: MS.PRIVATE | MS.REC,
  shared: MS.SHARED,
  rshared: MS.SHARED | MS.REC,
  slave: MS.SLAVE,
  rslave: MS.SLAVE | MS.REC,
  unbindable: MS.UNBINDABLE,
  runbindable: MS.UNBINDABLE | MS.REC,
}))

/**
 * The calls, in order. A bind ignores every other flag, so those follow as a remount of the same bind; propagation
 * comes last. Errors: EINVAL for a bind with words it cannot honour, or a request that asks for nothing.
 */
export function planMount({ source, target, type, options }: MountRequest): readonly MountCall[] {
  // Moves a mount from one place to another; mount(2) ignores every other flag with it.
  if (options.includes('move')) return [{ source, type: '', flags: MS.MOVE, data: '' }]
  let flags = 0
  const data: string[] = []
  const changes: number[] = []
  for (const word of options) {
    const change = propagations.get(word)
    const clear = clearers.get(word)
    const set = setters.get(word)
    if (change !== undefined) changes.push(change)
    else if (clear !== undefined) flags &= ~clear
    else if (set !== undefined) flags |= set
    else if (word !== '') data.push(word)
  }
  const attributes = flags & ~(MS.BIND | MS.REC | MS.REMOUNT)
  const isBind = (flags & MS.BIND) !== 0
  const isRemount = (flags & MS.REMOUNT) !== 0
  if (isBind && data.length > 0) throw invalid(target, `a bind mount cannot honour the option ${data.join(', ')}`)
  const call = (callFlags: number): MountCall => ({ source, type: '', flags: callFlags, data: '' })
  const calls: MountCall[] = []
  if (isBind && !isRemount) calls.push(call(flags & (MS.BIND | MS.REC)))
  if (isBind && (isRemount || attributes !== 0)) calls.push(call(MS.REMOUNT | MS.BIND | attributes))
  if (!isBind && (type !== '' || isRemount)) calls.push({ source, type, flags, data: data.join(',') })
  else if (!isBind && (attributes !== 0 || data.length > 0)) throw invalid(target, 'no file-system type was given')
  for (const change of changes) calls.push(call(change))
  if (calls.length === 0) throw invalid(target, 'neither a type, a bind, a remount nor a propagation was asked for')
  return calls
}

function invalid(target: string, reason: string): OsError {
  return new OsError('EINVAL', 'mount', `mount on ${target}: ${reason} (EINVAL)`)
}
