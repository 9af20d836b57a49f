/** OCI specs in the shape containerd 2.1.9's CRI writes them for an external sandboxer whose Status answers pid 0. */
import type { DirectoryFacts, SourceFacts } from '#host/container/source.ts'

export interface SpecParts {
  readonly mounts?: readonly unknown[]
  /** Path of the PID namespace; none for a private one. */
  readonly pidPath?: string
  readonly linux?: Readonly<Record<string, unknown>>
  readonly top?: Readonly<Record<string, unknown>>
  readonly process?: Readonly<Record<string, unknown>>
}

export const defaultMounts = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'] },
] as const

/** Of a container whose PID namespace is its own. */
export const namespaces: readonly { readonly type: string; readonly path?: string }[] = [
  { type: 'pid' },
  { type: 'ipc', path: '/proc/0/ns/ipc' },
  { type: 'uts', path: '/proc/0/ns/uts' },
  { type: 'mount' },
  { type: 'network', path: '/proc/0/ns/net' },
]

export function criSpec({ mounts = [], pidPath, linux = {}, top = {}, process = {} }: SpecParts = {}): string {
  const pid = pidPath === undefined ? { type: 'pid' } : { type: 'pid', path: pidPath }
  return JSON.stringify({
    ociVersion: '1.2.1',
    process: { user: { uid: 0, gid: 0 }, args: ['sh'], env: ['PATH=/bin'], cwd: '/', oomScoreAdj: 0, ...process },
    root: { path: 'rootfs' },
    mounts: [...defaultMounts, ...mounts],
    annotations: { 'io.kubernetes.cri.container-type': 'container' },
    linux: {
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        memory: { limit: 67108864, swap: 67108864 },
        cpu: { quota: 50000, period: 100000, cpus: '0', mems: '0' },
      },
      cgroupsPath: '/kubepods/pod1/container1',
      namespaces: [pid, ...namespaces.slice(1)],
      ...linux,
    },
    ...top,
  })
}

export const bind = (source: string, destination: string, ...options: string[]) => ({
  destination,
  type: 'bind',
  source,
  options: ['rbind', 'rprivate', ...(options.length === 0 ? ['rw'] : options)],
})

const EXT4 = 0xef53

let looked = 0
/** Whatever is made here is something else than all before. */
const identity = () => `${++looked}.1.2`

export const directory = (fsType = EXT4, fsBytes = 1 << 30, more: Partial<DirectoryFacts> = {}): DirectoryFacts => ({
  kind: 'directory',
  identity: identity(),
  fsType,
  fsBytes,
  fsBlockBytes: 4096,
  mode: 0o2777,
  uid: 0,
  gid: 1000,
  hasMounts: false,
  ...more,
})

export const file = (fsType = EXT4): Extract<SourceFacts, { kind: 'file' }> => ({ kind: 'file', identity: identity(), fsType })
