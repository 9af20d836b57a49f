/**
 * From a pod's configuration to what is started and what the guest is told. Pure: the request, the settings and the
 * machine go in, a plan or a refusal comes out.
 */
import { RuntimeError } from '#shared/errors.ts'
import { HUGEPAGE_SIZE } from '../container/contract.ts'

/** CRI's NamespaceMode, by name. */
export type NamespaceMode = 'POD' | 'CONTAINER' | 'NODE' | 'TARGET'

/** The part of CRI's LinuxContainerResources that sizes a VM. 0: not limited. */
export interface PodResources {
  readonly cpuPeriodMicros: number
  readonly cpuQuotaMicros: number
  readonly memoryLimitBytes: number
}

/** CRI's HugepageLimit. */
export interface HugepageLimit {
  /** "2MB", "1GB" */
  readonly pageSize: string
  readonly limitBytes: number
}

export interface PodIdentity {
  readonly name: string
  readonly namespace: string
  readonly uid: string
  readonly attempt: number
}

/** A pod as Create hands it over. */
export interface PodRequest {
  readonly sandboxId: string
  readonly pod: PodIdentity
  readonly netnsPath: string
  readonly hostname: string
  readonly dns: { readonly servers: readonly string[]; readonly searches: readonly string[]; readonly options: readonly string[] }
  readonly sysctls: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  readonly cgroupParent: string
  readonly namespaces: {
    readonly network: NamespaceMode
    readonly pid: NamespaceMode
    readonly ipc: NamespaceMode
    /** Undefined when the pod does not say, which is the common case */
    readonly user: NamespaceMode | undefined
  }
  readonly resources: PodResources
  /** Of the containers together */
  readonly hugepages: readonly HugepageLimit[]
}

/** How VMs are sized where the pod does not say. */
export interface Sizing {
  readonly vcpus: number
  readonly memoryMiB: number
  readonly memoryMiBMin: number
  /** What the guest's kernel and agent need beyond the pod's own limit */
  readonly reserveMiB: number
  readonly machine: { readonly cpus: number; readonly memoryMiB: number }
}

/** What the guest is told in the answer to Hello, besides the clock. */
export interface GuestConfig {
  readonly hostname: string
  readonly dns: PodRequest['dns']
  readonly sysctls: Readonly<Record<string, string>>
  readonly hostsLines: readonly string[]
  /** Size of the pod's /dev/shm; 0 takes the guest's default */
  readonly shmBytes: number
  /** Pages of HUGEPAGE_SIZE that the guest's kernel sets aside */
  readonly hugepagesMiB: number
  /** The pod's own limit, without its overhead; 0 for none */
  readonly memoryLimitBytes: number
}

export interface PodPlan {
  readonly vcpus: number
  readonly memoryMiB: number
  readonly netnsPath: string | undefined
  /** Below the root of every hierarchy, in cgroupfs form */
  readonly cgroupPath: string
  /** Those under ANNOTATION_PREFIX */
  readonly annotations: Readonly<Record<string, string>>
  readonly guest: GuestConfig
}

export const ANNOTATION_PREFIX = 'io.kuasar.'
const MIB = 1024 * 1024
const HUGEPAGE_MIB = 2
/** QEMU's q35 accepts 288; more than this in one pod is a mistake */
const VCPUS_MAX = 256

/** Of a pod that sets no limits and asks for nothing. */
export function defaultSize({ vcpus: wanted, memoryMiB: memory, machine }: Sizing): Pick<PodPlan, 'vcpus' | 'memoryMiB'> {
  return { vcpus: Math.max(1, Math.min(wanted, machine.cpus, VCPUS_MAX)), memoryMiB: Math.min(memory, machine.memoryMiB) }
}

/** Errors: INVALID_ARGUMENT for what a VM cannot honour, naming the field and what to do. */
export function planPod(request: PodRequest, sizing: Sizing, cgroupParentDefault: string): PodPlan {
  refuseHostNamespaces(request)
  const annotations = Object.fromEntries(Object.entries(request.annotations).filter(([key]) => key.startsWith(ANNOTATION_PREFIX)))
  const hugepages = hugepagesMiB(request, sizing, annotations)
  const hostname = request.hostname === '' ? request.sandboxId.slice(0, 12) : request.hostname
  return {
    vcpus: vcpus(request, sizing, annotations),
    memoryMiB: memoryMiB(request, sizing, annotations, hugepages),
    netnsPath: request.netnsPath === '' ? undefined : request.netnsPath,
    cgroupPath: cgroupPath(request.cgroupParent === '' ? cgroupParentDefault : request.cgroupParent, request.sandboxId),
    annotations,
    guest: {
      hostname,
      dns: request.dns,
      sysctls: podSysctls(request.sysctls),
      // The address Debian gives a machine's own name while it has no other (Debian reference 5.1.1).
      hostsLines: [`127.0.1.1\t${hostname}`],
      shmBytes: (whole(annotations, 'io.kuasar.shm-mib', 1, sizing.machine.memoryMiB) ?? 0) * MIB,
      hugepagesMiB: hugepages,
      memoryLimitBytes: Math.max(0, request.resources.memoryLimitBytes),
    },
  }
}

function refuseHostNamespaces({ namespaces, sandboxId }: PodRequest): void {
  const host = (['network', 'pid', 'ipc'] as const).filter((name) => namespaces[name] === 'NODE')
  if (host.length > 0) {
    const fields = { network: 'hostNetwork', pid: 'hostPID', ipc: 'hostIPC' }
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `pod ${sandboxId} asks for ${host.map((name) => fields[name]).join(', ')}: a sandbox with a kernel of its own cannot` +
        ` share the host's ${host.join(', ')} namespace; remove the field or run the pod with a runc runtime class`,
    )
  }
  if (namespaces.user !== undefined && namespaces.user !== 'NODE')
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `pod ${sandboxId} asks for a user namespace (hostUsers: false): not supported in a sandbox, whose root is not` +
        ` the host's anyway; remove the field or run the pod with a runc runtime class`,
    )
}

/** CPU limit rounded up to whole processors. */
function vcpus({ resources }: PodRequest, sizing: Sizing, annotations: PodPlan['annotations']): number {
  const asked = whole(annotations, 'io.kuasar.vcpus', 1, VCPUS_MAX)
  if (asked !== undefined) return asked
  const limit = cpus(resources)
  if (limit === 0) return defaultSize(sizing).vcpus
  return Math.max(1, Math.min(Math.ceil(limit), sizing.machine.cpus, VCPUS_MAX))
}

const cpus = ({ cpuQuotaMicros, cpuPeriodMicros }: PodResources): number =>
  cpuQuotaMicros > 0 && cpuPeriodMicros > 0 ? cpuQuotaMicros / cpuPeriodMicros : 0

/**
 * Memory limit plus what the guest itself needs, plus the huge pages, which Kubernetes counts apart. Not by
 * RuntimeClass.overhead: it bounds the whole pod on the host, VMM and helpers included, and a VM that filled it would
 * leave them nothing.
 */
function memoryMiB({ resources }: PodRequest, sizing: Sizing, annotations: PodPlan['annotations'], hugepages: number): number {
  const asked = whole(annotations, 'io.kuasar.memory-mib', sizing.memoryMiBMin + hugepages, sizing.machine.memoryMiB)
  if (asked !== undefined) return asked
  if (resources.memoryLimitBytes <= 0) return Math.min(sizing.memoryMiB + hugepages, sizing.machine.memoryMiB)
  const wanted = Math.ceil(resources.memoryLimitBytes / MIB) + sizing.reserveMiB
  return Math.min(Math.max(wanted, sizing.memoryMiBMin) + hugepages, sizing.machine.memoryMiB)
}

/** The kubelet names huge pages in the containers only, after the VM has its size: hence the annotation. */
function hugepagesMiB({ hugepages, sandboxId }: PodRequest, sizing: Sizing, annotations: PodPlan['annotations']): number {
  const limits = hugepages.filter(({ limitBytes }) => limitBytes > 0)
  const other = limits.find(({ pageSize }) => pageSize !== HUGEPAGE_SIZE)
  if (other !== undefined)
    throw new RuntimeError('INVALID_ARGUMENT', `pod ${sandboxId} asks for huge pages of ${other.pageSize}: a sandbox has pages of ${HUGEPAGE_SIZE}`)
  const asked = whole(annotations, 'io.kuasar.hugepages-mib', 0, sizing.machine.memoryMiB)
  const wanted = asked ?? limits.reduce((sum, { limitBytes }) => sum + limitBytes, 0) / MIB
  return Math.ceil(wanted / HUGEPAGE_MIB) * HUGEPAGE_MIB
}

/**
 * The pod's own cgroup, a child of the kubelet's: CRI's pod stats read the parent and count what is below it.
 * A systemd slice name is its whole path folded into one word ("a-b.slice" lies in "a.slice").
 * Source: systemd.slice(5).
 */
export function cgroupPath(parent: string, sandboxId: string): string {
  const base = parent.endsWith('.slice') ? slicePath(parent) : parent
  const parts = base.split('/').filter((part) => part !== '')
  if (parts.some((part) => part === '.' || part === '..'))
    throw new RuntimeError('INVALID_ARGUMENT', `cgroup parent ${JSON.stringify(parent)} is not a plain path`)
  return ['', ...parts, `kuasar-${sandboxId}`].join('/')
}

function slicePath(slice: string): string {
  const name = slice.slice(slice.lastIndexOf('/') + 1, -'.slice'.length)
  if (name === '-') return '/'
  if (!/^[^-]+(-[^-]+)*$/.test(name))
    throw new RuntimeError('INVALID_ARGUMENT', `cgroup parent ${JSON.stringify(slice)} is not a systemd slice: expected names joined by single dashes`)
  const words = name.split('-')
  return words.map((_, index) => `${words.slice(0, index + 1).join('-')}.slice`).join('/')
}

/**
 * Parameters with which a pod would have the guest's kernel run a program beside the agent, outside of every container.
 * Source: Documentation/admin-guide/sysctl/kernel.rst.
 */
const helperSysctls: ReadonlySet<string> = new Set(['kernel.hotplug', 'kernel.modprobe', 'kernel.poweroff_cmd'])

const namesProgram = (name: string, value: string): boolean =>
  helperSysctls.has(name) || (name === 'kernel.core_pattern' && value.trimStart().startsWith('|'))

/**
 * What containerd sets in a pod of runc's by default (`enable_unprivileged_ports`, `enable_unprivileged_icmp`), and tells no sandboxer of:
 * a server that is not root may have port 80, and ping needs no capability.
 */
const defaultSysctls = { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' } as const

/** The pod's own, and the defaults of those that it does not name, in either way to write a name. */
function podSysctls(sysctls: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const named = new Set(Object.keys(sysctls).map((name) => name.replaceAll('/', '.')))
  const defaults = Object.entries(defaultSysctls).filter(([name]) => !named.has(name))
  return { ...Object.fromEntries(defaults), ...checkedSysctls(sysctls) }
}

/** Names only: what the guest's kernel does not have, or not take, it says itself, and the start fails with it. */
function checkedSysctls(sysctls: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const [key, value] of Object.entries(sysctls)) {
    if (namesProgram(key.replaceAll('/', '.'), value))
      throw new RuntimeError('INVALID_ARGUMENT', `sysctl ${key} names a program for the kernel to run outside of all containers: remove it from the pod`)
    if (!/^[\w-]+([./][\w-]+)*$/.test(key))
      throw new RuntimeError('INVALID_ARGUMENT', `sysctl ${JSON.stringify(key)} is not a kernel parameter: expected names joined by dots`)
  }
  return sysctls
}

function whole(annotations: PodPlan['annotations'], key: string, min: number, max: number): number | undefined {
  const text = annotations[key]
  if (text === undefined) return undefined
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN
  if (!(value >= min && value <= max))
    throw new RuntimeError('INVALID_ARGUMENT', `annotation ${key}=${JSON.stringify(text)}: expected a whole number from ${min} to ${max}`)
  return value
}
