/**
 * Makes what the plan says, with mount(2) in this process: 20 µs for a bind and 0.3 ms for an overlay, where starting
 * mount(8) costs 3 ms each. The calls are synchronous, so nothing comes between two that belong together.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import type { Mounts } from '#shared/os/contract.ts'
import { isErrno } from '#shared/os/error.ts'
import { mountIdOf, mountsOn } from '../sandbox/mounts.ts'
import type { VolumePlan } from './plan.ts'
import type { OverlayRootfs, RootfsPlan } from './rootfs.ts'

/** mount(2) takes one page of options, its NUL included. */
const OPTION_BYTES_MAX = 4095

const O_PATH = 0o10000000

/** Mounts at one point, each over the one before */
const STACKED_MAX = 16

/** Nobody on the host shall run or open what lies in a share. A guest's mount of the share has flags of its own. */
const GUARD = ['nosuid', 'nodev']

export function mountRootfs(mounts: Mounts, plan: RootfsPlan, stagingDir: string | undefined): void {
  switch (plan.kind) {
    case 'overlay':
      return mountOverlay(mounts, plan)
    case 'bind':
      return mountVolume(mounts, { ...plan, node: 'directory', recursive: false, receives: false, common: false }, plan.source, stagingDir)
  }
}

function mountOverlay(mounts: Mounts, plan: OverlayRootfs): void {
  const whole = overlayOptions(plan)
  if (byteLength(whole) <= OPTION_BYTES_MAX) return overlay(mounts, plan, whole)
  // Images of many layers: the snapshotter's directory is written once per layer, so it is named by a descriptor.
  const prefix = commonDirectory(directoriesOf(plan))
  const fd = openSync(prefix, O_PATH | constants.O_DIRECTORY)
  try {
    const short = overlayOptions(plan, (path) => `/proc/self/fd/${fd}${path.slice(prefix.length)}`)
    if (byteLength(short) > OPTION_BYTES_MAX)
      throw new RuntimeError(
        'RESOURCE_EXHAUSTED',
        `the image's ${plan.lowerDirs.length} layers make ${byteLength(short)} bytes of overlay options; the kernel takes ${OPTION_BYTES_MAX}: use an image of fewer layers`,
      )
    overlay(mounts, plan, short)
  } finally {
    closeSync(fd)
  }
}

function overlay(mounts: Mounts, { target }: OverlayRootfs, options: readonly string[]): void {
  mounts.mount({ source: 'overlay', target, type: 'overlay', options: [...GUARD, ...options] })
}

function overlayOptions({ lowerDirs, upper, options }: OverlayRootfs, name = (path: string): string => path): readonly string[] {
  const lower = `lowerdir=${lowerDirs.map(name).join(':')}`
  if (upper === undefined) return [...options, lower, 'ro']
  return [...options, lower, `upperdir=${name(upper.upperDir)}`, `workdir=${name(upper.workDir)}`]
}

const directoriesOf = ({ lowerDirs, upper }: OverlayRootfs): readonly string[] =>
  upper === undefined ? lowerDirs : [...lowerDirs, upper.upperDir, upper.workDir]

const byteLength = (options: readonly string[]): number => Buffer.byteLength(options.join(','))

/** The longest directory above all paths, without a slash at its end; "" stands for the root. */
function commonDirectory(paths: readonly string[]): string {
  const [first = '', ...rest] = paths
  const parts = first.split('/').slice(0, -1)
  const shared = parts.findIndex((_, index) => {
    const head = `${parts.slice(0, index + 1).join('/')}/`
    return !rest.every((path) => path.startsWith(head))
  })
  return (shared < 0 ? parts : parts.slice(0, shared)).join('/')
}

/**
 * Binds in the staging mount, which is private, and moves the finished bind to its place. Bound in place, the copy that
 * virtiofsd sees would be writable (a remount reaches one copy only), and it would be of its source's peer group: every
 * mount made below the source later would turn up in the guest and be pinned there, so that the host could not unmount
 * it (EBUSY). `from` is a path that leads to the source. Without a guest the place itself will do. Source:
 * mount_namespaces(7), move of a private mount to a shared place.
 */
export function mountVolume(mounts: Mounts, plan: VolumePlan, from: string, stagingDir: string | undefined): void {
  const at = stagingDir === undefined ? plan.target : join(stagingDir, plan.node)
  if (stagingDir !== undefined) clear(mounts, at)
  mounts.mount({ source: from, target: at, type: '', options: [plan.recursive ? 'rbind' : 'bind'] })
  try {
    mounts.mount({ source: 'none', target: at, type: '', options: [plan.receives ? 'rslave' : 'rprivate'] })
    if (plan.readonly === 'recursive') mounts.restrict(at)
    else mounts.mount({ source: 'none', target: at, type: '', options: ['remount', 'bind', ...GUARD, ...(plan.readonly === 'no' ? [] : ['ro'])] })
    if (stagingDir !== undefined) mounts.mount({ source: at, target: plan.target, type: '', options: ['move'] })
  } catch (error) {
    mounts.unmount(at, true)
    throw error
  }
  if (stagingDir !== undefined && plan.node === 'directory' && plan.recursive && !plan.receives) leaveToGuest(mounts, plan.target)
}

/**
 * Takes what is mounted below a bind's top away from this namespace, and from no other: virtiofsd's copies stay. Here
 * they would hold the host's own directories, for a directory that is a mount point of one's own namespace cannot be
 * removed (EBUSY), not even when the host has long unmounted there what it had. A removal in spite of other namespaces'
 * mounts succeeds, and takes those with it; so does the removal of the skeleton's entry below the top, at release.
 * Mounts that are received need none of it: they go with the host's. Source: rmdir(2), kernel's detach_mounts.
 *
 * A guest may rename what it can write, so no path that leads through the volume is believed: a mount is named by one
 * name in a directory, and that directory is looked up first and seen to be the bind's. What a guest has moved stays.
 */
function leaveToGuest(mounts: Mounts, top: string): void {
  const { id, points } = mountsOn(top, readFileSync('/proc/self/mountinfo', 'utf8'))
  if (points.length === 0) return
  // None of them may tell its copies.
  mounts.mount({ source: 'none', target: top, type: '', options: ['rprivate'] })
  for (const point of points.toReversed()) {
    const fd = openDirectory(dirname(point))
    if (fd === undefined) continue
    try {
      if (mountIdOf(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) !== id) continue
      for (let layer = 0; layer < STACKED_MAX; layer++) if (!unmountIfMounted(mounts, `/proc/self/fd/${fd}/${basename(point)}`)) break
    } finally {
      closeSync(fd)
    }
  }
}

function openDirectory(path: string): number | undefined {
  try {
    return openSync(path, O_PATH | constants.O_DIRECTORY)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].some((code) => isErrno(error, code))) return undefined
    throw error
  }
}

/** What a SIGKILL between two calls left. */
const clear = (mounts: Mounts, staged: string): void => void unmountIfMounted(mounts, staged)

function unmountIfMounted(mounts: Mounts, path: string): boolean {
  try {
    mounts.unmount(path, true)
    return true
  } catch (error) {
    if (isErrno(error, 'EINVAL') || isErrno(error, 'ENOENT')) return false
    throw error
  }
}
