/** What a bind's source is, and what of it a guest with a kernel of its own can be given. Pure. */

export type SourceFacts =
  | { readonly kind: 'missing' | 'socket' | 'fifo' }
  | { readonly kind: 'char' | 'block'; readonly major: number; readonly minor: number }
  | { readonly kind: 'file'; readonly fsType: number; readonly identity: string }
  | DirectoryFacts

export interface DirectoryFacts {
  readonly kind: 'directory'
  /** Of device, inode and mount: two names with the same are one directory, for as long as somebody holds it */
  readonly identity: string
  /** f_type of statfs(2) */
  readonly fsType: number
  /** Size of the whole file system, bytes; 0 for one without a limit */
  readonly fsBytes: number
  /** Of a hugetlbfs: the size of its pages */
  readonly fsBlockBytes: number
  /** Where it is in its file system; known of those in memory alone */
  readonly fsPath?: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Whether something is mounted below it */
  readonly hasMounts: boolean
}

/** f_type numbers. Source: linux/magic.h. */
export const TMPFS = 0x01021994
export const HUGETLBFS = 0x958458f6
export const inMemory = (fsType: number): boolean => fsType === TMPFS || fsType === HUGETLBFS

/** File systems through which a kernel shows itself: another kernel's are of no use to a guest, and a danger to the host. */
const kernelFileSystems: ReadonlyMap<number, string> = new Map([
  [0x9fa0, 'proc'],
  [0x62656572, 'sysfs'],
  [0x27e0eb, 'cgroup'],
  [0x63677270, 'cgroup2'],
  [0x1cd1, 'devpts'],
  [0x19800202, 'mqueue'],
  [0x64626720, 'debugfs'],
  [0x74726163, 'tracefs'],
  [0x73636673, 'securityfs'],
  [0xcafe4a11, 'bpf'],
  [0x6e736673, 'nsfs'],
  [0x62656570, 'configfs'],
  [0xde5e81e4, 'efivarfs'],
  [0x6165676c, 'pstore'],
])

export const kernelFileSystem = (fsType: number): string | undefined => kernelFileSystems.get(fsType)

/**
 * Character devices with fixed numbers that every Linux kernel has and that show nothing of the machine, by
 * major:minor. Source: Documentation/admin-guide/devices.txt.
 */
const universalDevices: ReadonlyMap<string, string> = new Map([
  ['1:3', '/dev/null'],
  ['1:5', '/dev/zero'],
  ['1:7', '/dev/full'],
  ['1:8', '/dev/random'],
  ['1:9', '/dev/urandom'],
  ['1:11', '/dev/kmsg'],
  ['5:0', '/dev/tty'],
  ['5:1', '/dev/console'],
  ['5:2', '/dev/ptmx'],
  ['10:200', '/dev/net/tun'],
  ['10:229', '/dev/fuse'],
])

/** The guest's own path of a device that it has as well. */
export const universalDevice = (major: number, minor: number): string | undefined => universalDevices.get(`${major}:${minor}`)

/** kubelet's directory of an emptyDir volume; what medium it has, its file system says. */
const emptyDir = /\/pods\/([A-Za-z0-9-]{1,64})\/volumes\/kubernetes\.io~empty-dir\/([a-z0-9][a-z0-9-]{0,62})$/

/** A name for the volume, unique on the node; undefined for any other path. */
export function emptyDirName(source: string): string | undefined {
  const [, uid, name] = emptyDir.exec(source) ?? []
  return uid === undefined || name === undefined ? undefined : `${uid}_${name}`
}

/** Whether it is an emptyDir of that very pod: whatever may be read of it, the pod may write. */
export const isEmptyDirOf = (podUid: string, source: string): boolean => podUid !== '' && emptyDir.exec(source)?.[1] === podUid

/** Where kubelet binds a subPath of a volume; the volume's own directory if it were an emptyDir. */
export function emptyDirOfSubPath(source: string): string | undefined {
  const [, pod, name] = /^(.*\/pods\/[A-Za-z0-9-]{1,64})\/volume-subpaths\/([a-z0-9][a-z0-9-]{0,62})\//.exec(source) ?? []
  return pod === undefined || name === undefined ? undefined : `${pod}/volumes/kubernetes.io~empty-dir/${name}`
}
