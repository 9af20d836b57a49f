/** The mount table, as far as undoing needs it. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { RuntimeError } from '#shared/errors.ts'

/** A mount may be stacked on itself when a crash came between making it and writing that down. */
const STACKED_MAX = 16
const UMOUNT_TIMEOUT_MS = 60_000
/** Targets of one umount(8): far below the kernel's limit on arguments. */
const TARGETS_MAX = 256

/** Every mount point of a mountinfo text, oldest first. Source: proc_pid_mountinfo(5), field 5. */
export const mountPoints = (mountinfo: string): readonly string[] =>
  mountinfo.split('\n').flatMap((line) => line.split(' ')[4] ?? []).map(unescape)

/** The id of the mount that a descriptor of this process lies in, from its fdinfo. Source: proc_pid_fdinfo(5), mnt_id. */
export const mountIdOf = (fdinfo: string): string | undefined => /^mnt_id:\s*(\d+)$/m.exec(fdinfo)?.[1]

/** The uppermost mount at `top`, and the points of those that lie on it and not on one another, oldest first. */
export function mountsOn(top: string, mountinfo: string): { readonly id: string | undefined; readonly points: readonly string[] } {
  const mounts = mountinfo.split('\n').map((line) => line.split(' '))
  const id = mounts.findLast(([, , , , point]) => point !== undefined && unescape(point) === top)?.[0]
  return { id, points: mounts.flatMap(([, parent, , , point]) => (point !== undefined && parent === id ? [unescape(point)] : [])) }
}

/** The mount that a descriptor of this process lies in, from its fdinfo and the mount table. */
export function mountOfDescriptor(fdinfo: string, mountinfo: string): { readonly root: string; readonly point: string } | undefined {
  const id = mountIdOf(fdinfo)
  const fields = mountinfo.split('\n').map((line) => line.split(' ')).find(([first]) => first === id)
  const [root, point] = fields?.slice(3, 5) ?? []
  return root === undefined || point === undefined ? undefined : { root: unescape(root), point: unescape(point) }
}

/** Mount points at or below `path`, the deepest and newest first. */
export async function mountsBelow(path: string): Promise<readonly string[]> {
  return (await allMounts())
    .filter((target) => target === path || target.startsWith(`${path}/`))
    .toReversed()
    .toSorted((a, b) => b.split('/').length - a.split('/').length)
}

const allMounts = async (): Promise<readonly string[]> => mountPoints(await readFile('/proc/self/mountinfo', 'utf8'))

/** Spaces and the like are written as octal escapes. */
const unescape = (field: string): string => field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))

/**
 * Takes mounts away, in this order; those gone already are none. Lazily: virtiofsd holds what it has shown to a guest,
 * and nobody else shall see it meanwhile. In a process of their own: the last unmount of an overlay writes its whole
 * upper file system out, which can take seconds.
 */
export async function unmountAll(targets: readonly string[]): Promise<void> {
  let complaint = ''
  for (let layer = 0; layer < STACKED_MAX; layer++) {
    const mounted = new Set(await allMounts())
    const left = targets.filter((target) => mounted.has(target))
    if (left.length === 0) return
    for (let at = 0; at < left.length; at += TARGETS_MAX) complaint = await umount(left.slice(at, at + TARGETS_MAX))
  }
  throw new RuntimeError('INTERNAL', `still mounted after ${STACKED_MAX} unmounts: ${targets.join(', ')}: ${complaint}`)
}

/** Says what went wrong; whether it matters, the mount table tells. */
function umount(targets: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile('umount', ['--lazy', '--no-mtab', '--', ...targets], { timeout: UMOUNT_TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, _, stderr) =>
      resolve(error === null ? '' : stderr.trim() || (error.killed === true ? `umount was not done within ${UMOUNT_TIMEOUT_MS} ms` : error.message)),
    )
  })
}
