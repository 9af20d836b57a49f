/** From a snapshotter's mounts to the mount that makes a container's root file system. Pure. */
import { RuntimeError } from '#shared/errors.ts'
import type { SnapshotMount } from '../containerd/contract.ts'

export interface OverlayRootfs {
  readonly kind: 'overlay'
  readonly target: string
  /** Topmost first, as overlayfs wants them */
  readonly lowerDirs: readonly string[]
  /** Undefined for a read-only view */
  readonly upper: { readonly upperDir: string; readonly workDir: string } | undefined
  /** Every other option, as the snapshotter gave it */
  readonly options: readonly string[]
}

export interface BindRootfs {
  readonly kind: 'bind'
  readonly target: string
  readonly source: string
  readonly readonly: 'no' | 'top'
}

export type RootfsPlan = OverlayRootfs | BindRootfs

/**
 * Errors: UNIMPLEMENTED for anything but one overlay or one bind, naming the snapshotter and what to configure;
 * INVALID_ARGUMENT for an overlay without layers.
 */
export function planRootfs(mounts: readonly SnapshotMount[], snapshotter: string, target: string): RootfsPlan {
  const [mount] = mounts
  if (mount === undefined || mounts.length !== 1)
    throw unsupported(snapshotter, `${mounts.length} mounts (${mounts.map(({ type }) => type).join(', ')})`)
  if (mount.options.some((option) => /^[ug]idmap=/.test(option)))
    throw unsupported(snapshotter, 'a mount with a user-id mapping')
  if (mount.type === 'overlay') return planOverlay(mount, snapshotter, target)
  if (mount.type === 'bind' && mount.source.startsWith('/'))
    return { kind: 'bind', target, source: mount.source, readonly: mount.options.includes('ro') ? 'top' : 'no' }
  throw unsupported(snapshotter, `a mount of type ${JSON.stringify(mount.type)}`)
}

function planOverlay({ options }: SnapshotMount, snapshotter: string, target: string): OverlayRootfs {
  const value = (key: string) => options.find((option) => option.startsWith(`${key}=`))?.slice(key.length + 1)
  const [lower, upperDir, workDir] = [value('lowerdir'), value('upperdir'), value('workdir')]
  const lowerDirs = lower?.split(':') ?? []
  const directories = [...lowerDirs, ...(upperDir === undefined ? [] : [upperDir]), ...(workDir === undefined ? [] : [workDir])]
  if (lowerDirs.length === 0 || (upperDir === undefined) !== (workDir === undefined) || directories.some((path) => !path.startsWith('/')))
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `snapshotter ${snapshotter} describes an overlay of ${JSON.stringify(options)}: expected absolute lowerdir, and upperdir and workdir together`,
    )
  return {
    kind: 'overlay',
    target,
    lowerDirs,
    upper: upperDir === undefined || workDir === undefined ? undefined : { upperDir, workDir },
    options: options.filter((option) => !/^(?:lowerdir|upperdir|workdir)=/.test(option)),
  }
}

const unsupported = (snapshotter: string, what: string): RuntimeError =>
  new RuntimeError(
    'UNIMPLEMENTED',
    `snapshotter ${snapshotter} describes the container's root as ${what}; sandboxes take one overlay or one bind mount:` +
      ` set snapshotter = "overlayfs" for this runtime in containerd's configuration`,
  )
