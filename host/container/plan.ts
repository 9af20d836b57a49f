/**
 * From a container's spec, its snapshot and what its mount sources are, to what the host mounts into the share, what
 * the guest mounts for itself, and the mounts its OCI runtime is given. Pure.
 *
 *   <share>/<container id>/rootfs       its root, its own, always
 *   <share>/<container id>/volumes/N    what mount N of its spec binds
 *   <share>/_volumes/KEY-XXXXXXXX       the same, for all containers of the pod that bind the same in the same way: for the guest's
 *                                       kernel two binds are two file systems, and a file in each of them two files, so that
 *                                       neither locks nor mapped memory, FIFOs, sockets or inotify would reach from one to the other
 */
import { unreachable } from '#shared/errors.ts'
import type { SnapshotMount } from '../containerd/contract.ts'
import type { GuestStorage } from './contract.ts'
import { memoryVolume, type MemoryInput } from './memory.ts'
import { isBind, type OciMount, type OciSpec } from './oci.ts'
import { propagationOf, type Propagation } from './propagation.ts'
import { refused } from './refused.ts'
import { planRootfs, type RootfsPlan } from './rootfs.ts'
import { HUGETLBFS, emptyDirOfSubPath, isEmptyDirOf, kernelFileSystem, universalDevice, type SourceFacts } from './source.ts'

/** A bind of a host file or directory into the share. */
export interface VolumePlan {
  readonly node: 'file' | 'directory'
  readonly source: string
  readonly target: string
  /** With the mounts below the source */
  readonly recursive: boolean
  /** `recursive` makes the mounts below the source read-only too, at the time of the mount */
  readonly readonly: 'no' | 'top' | 'recursive'
  /** Mounts made below the source later appear as well (mountPropagation: HostToContainer, and Bidirectional) */
  readonly receives: boolean
  /** Serves whichever containers of the pod bind the same */
  readonly common: boolean
}

export interface ContainerPlan {
  readonly rootfs: RootfsPlan
  readonly volumes: readonly VolumePlan[]
  readonly storages: readonly GuestStorage[]
  /** The container's mounts as its OCI runtime in the guest is given them */
  readonly mounts: readonly OciMount[]
  /** The root as the guest sees it */
  readonly guestRootfs: string
}

export interface PlanInput extends MemoryInput {
  readonly spec: OciSpec
  readonly snapshotter: string
  readonly snapshot: readonly SnapshotMount[]
  /** The container's directory in the share, as the host names it, and the guest: for its volumes, and for its root */
  readonly hostDir: string
  readonly guestDir: string
  readonly guestRootDir: string
  /** Where the volumes are that containers have in common */
  readonly hostVolumesDir: string
  readonly guestVolumesDir: string
  /** The name there of the one with this key */
  commonName(key: string): string
  readonly podUid: string
}

/** Every path that `planContainer` wants facts of. */
export function sourcesOf(spec: OciSpec): readonly string[] {
  return spec.mounts.filter((mount) => isBind(mount) && !isPodShm(mount)).flatMap((mount) => {
    const source = mount.source ?? ''
    const volume = emptyDirOfSubPath(source)
    if (!source.startsWith('/')) return []
    return volume === undefined ? [source] : [source, volume]
  })
}

/** Errors: UNIMPLEMENTED, INVALID_ARGUMENT and FAILED_PRECONDITION, each naming the mount, what it is and what to do. */
export function planContainer(input: PlanInput): ContainerPlan {
  const planned = input.spec.mounts.map((mount, index) => planMount(mount, index, input))
  const storages = planned.flatMap(({ storages: needed }) => needed ?? [])
  return {
    rootfs: planRootfs(input.snapshot, input.snapshotter, `${input.hostDir}/rootfs`),
    volumes: uniqueTargets(planned.flatMap(({ volume }) => volume ?? [])),
    storages: uniqueTargets(storages),
    mounts: planned.flatMap(({ mount }) => mount ?? []),
    guestRootfs: `${input.guestRootDir}/rootfs`,
  }
}

const uniqueTargets = <T extends { readonly target: string }>(all: readonly T[]): readonly T[] => [...new Map(all.map((one) => [one.target, one])).values()]

/** What becomes of one mount; nothing at all when the guest's agent provides it. */
interface PlannedMount {
  readonly mount?: OciMount
  readonly volume?: VolumePlan
  readonly storages?: readonly GuestStorage[]
}

/** File systems the guest's kernel makes from nothing. */
const guestTypes: ReadonlySet<string> = new Set(['proc', 'sysfs', 'tmpfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2'])

function planMount(mount: OciMount, index: number, input: PlanInput): PlannedMount {
  if ((mount.uidMappings ?? []).length > 0 || (mount.gidMappings ?? []).length > 0 || mount.options.some((word) => /^r?idmap$/.test(word)))
    throw refused('UNIMPLEMENTED', mount, 'has a user-id mapping', 'run the pod without a user namespace (hostUsers: true)')
  if (isPodShm(mount)) return {}
  if (isBind(mount)) return planBind(mount, index, input)
  if (guestTypes.has(mount.type ?? '')) return { mount }
  throw refused(
    'UNIMPLEMENTED',
    mount,
    `is of type ${JSON.stringify(mount.type ?? '')}`,
    `use a bind mount, or one of ${[...guestTypes].join(', ')}`,
  )
}

function planBind(mount: OciMount, index: number, input: PlanInput): PlannedMount {
  const source = mount.source ?? ''
  if (!source.startsWith('/')) throw refused('INVALID_ARGUMENT', mount, 'binds no absolute path', 'name an absolute path')
  const propagation = propagationOf(mount, input.podUid)
  const facts: SourceFacts = input.facts.get(source) ?? { kind: 'missing' }
  switch (facts.kind) {
    case 'missing':
      throw refused('FAILED_PRECONDITION', mount, 'has no such source on the host', 'create it first')
    case 'socket':
    case 'fifo':
      throw refused('UNIMPLEMENTED', mount, `binds a ${facts.kind}`, 'another kernel cannot reach its other end; use the network instead')
    case 'block':
      throw refused('UNIMPLEMENTED', mount, `binds the block device ${facts.major}:${facts.minor}`, 'use a volume with a file system')
    case 'char':
      return { mount: { ...mount, source: universal(mount, facts.major, facts.minor) } }
    case 'file':
    case 'directory':
      refuseKernel(mount, facts.fsType)
      if (source === '/dev' || source.startsWith('/dev/'))
        throw refused('UNIMPLEMENTED', mount, "binds the host's devices", 'a sandbox has devices of its own; remove the volume')
      return inMemory(mount, index, facts, input) ?? bindVolume(mount, source, facts, index, propagation, input)
    default:
      return unreachable(facts)
  }
}

function inMemory(mount: OciMount, index: number, facts: VolumeFacts, input: PlanInput): PlannedMount | undefined {
  const volume = memoryVolume(mount, index, facts, input)
  return volume && { mount: { ...mount, type: 'bind', source: volume.source }, storages: volume.storages }
}

type VolumeFacts = Extract<SourceFacts, { kind: 'file' | 'directory' }>

/**
 * What the guest's OCI runtime binds is a path in the share; its options hold there just as they would here, save one.
 * `ro` is the top's alone, but the guest's kernel, to which a mount below shows as a mount of its own once it is
 * entered, gives that the flags of the top (follow_automount). So where there are mounts below, or may come to be,
 * only the host's mount is read-only, and the guest meets it as an error of the write. In an emptyDir it is the other way:
 * all need the one mount of its, for what containers mount there, and it keeps flags of its own.
 */
function bindVolume(mount: OciMount, source: string, facts: VolumeFacts, index: number, propagation: Propagation, input: PlanInput): PlannedMount {
  if (facts.fsType === HUGETLBFS)
    throw refused('UNIMPLEMENTED', mount, 'lies on hugetlbfs', "huge pages of the host are not the guest's; use an emptyDir of medium HugePages")
  const last = (...words: readonly string[]) => mount.options.findLast((word) => words.includes(word))
  const access = last('ro', 'rw', 'rro')
  const recursive = mount.options.includes('rbind')
  const own = isEmptyDirOf(input.podUid, source)
  const hasMounts = facts.kind === 'directory' && facts.hasMounts
  // In an emptyDir, also one that asks for nothing finds what containers have mounted there before it starts.
  const receives = propagation !== 'private' || (own && !hasMounts)
  const mixed = access === 'ro' && recursive && facts.kind === 'directory' && (hasMounts || (receives && !own))
  // Nothing would be kept from the guest by a bind that is read-only, and that would be another one than its writers'.
  const guestsOwn = !mixed && !hasMounts && own
  const readonly = guestsOwn || access === 'rw' || access === undefined ? 'no' : access === 'rro' ? 'recursive' : 'top'
  // One that is to have the mounts below its source, and none that come later, is of its own time.
  const common = !hasMounts || !recursive || receives
  const at = common
    ? { host: input.hostVolumesDir, guest: input.guestVolumesDir, name: input.commonName([facts.identity, readonly, recursive ? 'r' : '', receives ? 's' : ''].join('.')) }
    : { host: input.hostDir, guest: input.guestDir, name: `volumes/${index}` }
  return {
    mount: { ...mount, type: 'bind', source: `${at.guest}/${at.name}`, options: mixed ? mount.options.filter((word) => word !== 'ro') : mount.options },
    volume: { node: facts.kind, source, target: `${at.host}/${at.name}`, recursive, readonly, receives, common },
  }
}

/**
 * The pod's /dev/shm, which the agent makes: containerd's default tmpfs, or CRI's directory for the pod. A volume that
 * the pod itself puts there stays.
 */
function isPodShm({ destination, type, source, options }: OciMount): boolean {
  if (destination !== '/dev/shm') return false
  if (type === 'tmpfs') return source === 'shm'
  return isBind({ destination, type, options }) && (source === '/dev/shm' || /\/sandboxes\/[^/]+\/shm$/.test(source ?? ''))
}

function refuseKernel(mount: OciMount, fsType: number): void {
  const name = kernelFileSystem(fsType)
  if (name !== undefined)
    throw refused('UNIMPLEMENTED', mount, `binds the host kernel's ${name}`, 'a sandbox has a kernel of its own; remove the volume')
}

function universal(mount: OciMount, major: number, minor: number): string {
  const path = universalDevice(major, minor)
  if (path !== undefined) return path
  throw refused('UNIMPLEMENTED', mount, `binds the device ${major}:${minor}`, 'devices of the host are not passed into sandboxes; remove it')
}
