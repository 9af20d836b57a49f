/**
 * emptyDirs in memory, of medium Memory or HugePages: a file system of the guest, shared by the pod's containers because
 * its name comes from the volume's alone. No file of it crosses the share, and its pages count where the pod's memory
 * is. A subPath of one is a directory of it, which the agent binds for the container. Pure.
 */
import type { GuestStorage } from './contract.ts'
import type { OciMount } from './oci.ts'
import { refused } from './refused.ts'
import { HUGETLBFS, TMPFS, emptyDirName, emptyDirOfSubPath, type DirectoryFacts, type SourceFacts } from './source.ts'

/** Guest mounts below here stay until the VM ends: an emptyDir outlives each of its containers. */
export const POD_STORAGES = '/run/kuasar/storages/pod'
/** Guest mounts below here go with their container. */
export const CONTAINER_STORAGES = '/run/kuasar/storages/container'
/** Binds of those of the pod, for the mounts that its containers make there; they go, and those mounts with them, with the last container. */
export const SHARED_STORAGES = '/run/kuasar/storages/shared'

const HUGEPAGE_BYTES = 2 * 1024 * 1024

export interface MemoryVolume {
  /** What the container's runtime in the guest binds */
  readonly source: string
  /** What is mounted first, in order */
  readonly storages: readonly GuestStorage[]
}

export interface MemoryInput {
  /** The container's */
  readonly id: string
  readonly facts: ReadonlyMap<string, SourceFacts>
  /** What the pod's guest has set aside */
  readonly hugepagesMiB: number
}

/** Undefined for any other volume. Errors: UNIMPLEMENTED for huge pages that the guest does not have, and for a single file. */
export function memoryVolume(
  mount: OciMount,
  index: number,
  facts: SourceFacts,
  input: MemoryInput,
): MemoryVolume | undefined {
  const source = mount.source ?? ''
  const parent = emptyDirOfSubPath(source)
  const volume = parent === undefined ? facts : input.facts.get(parent)
  const name = emptyDirName(parent ?? source)
  if (name === undefined || volume?.kind !== 'directory') return undefined
  const storage = fileSystem(mount, volume, `${POD_STORAGES}/${name}`, input.hugepagesMiB)
  if (storage === undefined) return undefined
  const whole = { source: storage.target, storages: [storage] }
  if (parent === undefined) return sharing(whole, name)
  if (facts.kind !== 'directory' || facts.fsPath === undefined)
    throw refused('UNIMPLEMENTED', mount, 'is a file on the host of an emptyDir in memory', 'the guest has that volume, not the host; mount a directory of it')
  if (facts.fsPath === '/') return whole
  const target = `${CONTAINER_STORAGES}/${input.id}/${index}`
  const part = { type: 'subpath', source: storage.target, target, options: [`path=${facts.fsPath}`, ...ownerOf(facts)] }
  return { source: target, storages: [storage, part] }
}

function sharing({ source, storages }: MemoryVolume, name: string): MemoryVolume {
  const target = `${SHARED_STORAGES}/${name}`
  return { source: target, storages: [...storages, { type: 'bind', source, target, options: ['bind', 'shared'] }] }
}

function fileSystem(mount: OciMount, facts: DirectoryFacts, target: string, hugepagesMiB: number): GuestStorage | undefined {
  const { fsType, fsBytes, fsBlockBytes } = facts
  const size = fsBytes === 0 ? [] : [`size=${fsBytes}`]
  if (fsType === TMPFS) return { type: 'tmpfs', source: 'tmpfs', target, options: ['nosuid', 'nodev', ...size, ...ownerOf(facts)] }
  if (fsType !== HUGETLBFS) return undefined
  if (fsBlockBytes !== HUGEPAGE_BYTES)
    throw refused('UNIMPLEMENTED', mount, `has huge pages of ${fsBlockBytes} bytes`, 'a sandbox has pages of 2 MiB: use medium HugePages-2Mi')
  if (hugepagesMiB === 0)
    throw refused('UNIMPLEMENTED', mount, 'is of huge pages', 'the pod has none: set the annotation io.kuasar.hugepages-mib')
  return { type: 'hugetlbfs', source: 'hugetlbfs', target, options: ['nosuid', 'nodev', 'pagesize=2M', ...size, ...ownerOf(facts)] }
}

const ownerOf = ({ mode, uid, gid }: DirectoryFacts): readonly string[] => [`mode=${mode.toString(8).padStart(4, '0')}`, `uid=${uid}`, `gid=${gid}`]
