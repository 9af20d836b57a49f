/**
 * The last word on a container's OCI spec. The sandboxer has replaced the host's paths; what is left here is what only
 * the guest knows: its own namespaces, cgroups, pod files and devices. A plan: no file is touched.
 */
import { RuntimeError } from '#shared/errors.ts'
import { asObject, type OciLinux, type OciMount, type OciNamespace, type OciProcess, type OciResources, type OciSpec } from './oci.ts'

/** crun 1.8 refuses versions that do not start with 1.0; nothing newer in a spec is needed by it. */
const OCI_VERSION = '1.0.2'

export interface SpecContext {
  /** Absolute cgroup path of the container, from the cgroup root. */
  readonly cgroupsPath: string
  /** What Create says; the spec's own word on it is not asked. */
  readonly terminal: boolean
  /** The PID namespace to join; undefined makes a private one. */
  readonly pidNamespace: string | undefined
  /** The pod's own files, as guest paths. */
  readonly hosts: string
  readonly hostname: string
  readonly resolvConf: string
  readonly shm: string
  /** Huge page sizes of this kernel as OCI writes them ("2MB"). */
  readonly hugepageSizes: readonly string[]
}

export function finalSpec(spec: OciSpec, context: SpecContext): OciSpec {
  const { hooks: _, hostname: _1, domainname: _2, ...rest } = spec
  if (spec.root?.path?.startsWith('/') !== true) {
    throw new RuntimeError('INVALID_ARGUMENT', 'the prepared spec names no root.path; expected an absolute guest path')
  }
  return {
    ...rest,
    ociVersion: OCI_VERSION,
    // Without a score of its own a container would have the agent's, and be the last to go when memory runs out.
    ...(spec.process === undefined ? {} : { process: { oomScoreAdj: 0, ...finalProcess(spec.process), terminal: context.terminal } }),
    mounts: podMounts(spec, context),
    linux: finalLinux(spec.linux ?? {}, context),
  }
}

/** The guest's kernel has no AppArmor profiles or SELinux policy of the host's. */
export function finalProcess(process: OciProcess): OciProcess {
  const { apparmorProfile: _, selinuxLabel: _1, ...rest } = process
  return rest
}

function finalLinux(linux: OciLinux, context: SpecContext): OciLinux {
  // Kernel parameters belong to the pod and were set at boot: a container that shares the namespaces may not set them.
  const { sysctl: _, intelRdt: _1, mountLabel: _2, resources, ...rest } = linux
  return {
    ...rest,
    cgroupsPath: context.cgroupsPath,
    namespaces: finalNamespaces(linux.namespaces ?? [], context.pidNamespace),
    ...(resources === undefined ? {} : { resources: finalResources(resources, context.hugepageSizes) }),
  }
}

/** Network, IPC and UTS are the VM's own, shared by the pod. The cgroup namespace is always private, so that a container sees only itself. */
function finalNamespaces(namespaces: readonly OciNamespace[], pidNamespace: string | undefined): OciNamespace[] {
  if (namespaces.some(({ type }) => type === 'user')) {
    throw new RuntimeError('UNIMPLEMENTED', 'user namespaces are not supported inside a microVM; remove userNamespace from the pod')
  }
  return [
    { type: 'mount' },
    { type: 'cgroup' },
    pidNamespace === undefined ? { type: 'pid' } : { type: 'pid', path: pidNamespace },
  ]
}

/**
 * Resources the guest can honour. Processor and memory nodes to pin to are the host's numbers; block devices are named
 * by the host's numbers; kernel memory, swappiness and the OOM switch exist in cgroup v1 only.
 */
export function finalResources(resources: OciResources, hugepageSizes: readonly string[]): OciResources {
  const { blockIO: _, network: _1, rdma: _2, hugepageLimits, cpu, memory, ...rest } = resources
  const { cpus: _3, mems: _4, realtimePeriod: _5, realtimeRuntime: _6, ...cpuRest } = asObject(cpu)
  const { kernel: _7, kernelTCP: _8, swappiness: _9, disableOOMKiller: _10, useHierarchy: _11, ...memoryRest } = asObject(memory)
  const pages = Array.isArray(hugepageLimits) ? hugepageLimits : []
  const limits = pages.filter((limit) => hugepageSizes.some((size) => size === asObject(limit).pageSize))
  return {
    ...rest,
    ...(Object.keys(cpuRest).length === 0 ? {} : { cpu: cpuRest }),
    ...(Object.keys(memoryRest).length === 0 ? {} : { memory: memoryRest }),
    ...(limits.length === 0 ? {} : { hugepageLimits: limits }),
  }
}

/** The pod's files where the spec has none of its own; mounts that sit below others come after them. */
function podMounts(spec: OciSpec, context: SpecContext): OciMount[] {
  const own: OciMount[] = (spec.mounts ?? []).filter((mount) => !isDefaultShm(mount))
  const taken = new Set(own.map((mount) => trimSlash(mount.destination)))
  const access = spec.root?.readonly === true ? 'ro' : 'rw'
  const pod = [
    bind('/etc/hosts', context.hosts, access),
    bind('/etc/hostname', context.hostname, access),
    bind('/etc/resolv.conf', context.resolvConf, access),
    bind('/dev/shm', context.shm, 'rw', 'nosuid', 'noexec', 'nodev'),
  ]
  return pod.filter(({ destination }) => !taken.has(destination)).reduce(insertAbove, own)
}

/** Before the first mount that lies below it. */
function insertAbove(mounts: readonly OciMount[], mount: OciMount): OciMount[] {
  const at = mounts.findIndex(({ destination }) => destination.startsWith(`${mount.destination}/`))
  return mounts.toSpliced(at === -1 ? mounts.length : at, 0, mount)
}

function bind(destination: string, source: string, ...options: string[]): OciMount {
  return { destination, source, type: 'bind', options: ['rbind', 'rprivate', ...options] }
}

/** containerd's own default, one tmpfs per container; a pod's containers share theirs. */
function isDefaultShm(mount: OciMount): boolean {
  return trimSlash(mount.destination) === '/dev/shm' && mount.type === 'tmpfs' && mount.source === 'shm'
}

function trimSlash(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path
}
