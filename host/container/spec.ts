/**
 * A container's spec as the guest's OCI runtime is given it: what names things of the host is replaced or taken out,
 * what a kernel of its own cannot honour is refused, all else stays. Pure.
 *
 * The agent adds what is the guest's own: cgroupsPath, the path of a shared PID namespace, and the pod's files and
 * /dev/shm where the container brings none.
 */
import { RuntimeError } from '#shared/errors.ts'
import { HUGEPAGE_SIZE, type PidNamespaceMode } from './contract.ts'
import type { OciDevice, OciSpec } from './oci.ts'
import type { ContainerPlan } from './plan.ts'
import { universalDevice } from './source.ts'

const MIB = 1024 * 1024

export interface GuestSpec {
  readonly spec: unknown
  readonly pidNamespace: PidNamespaceMode
}

/** Errors: INVALID_ARGUMENT and UNIMPLEMENTED, naming what was asked and what to do. */
export function guestSpec(spec: OciSpec, { mounts, guestRootfs }: Pick<ContainerPlan, 'mounts' | 'guestRootfs'>, hugepagesMiB: number): GuestSpec {
  const { linux } = spec
  refuseUserNamespace(spec)
  refuseHostNamespaces(spec)
  for (const device of linux.devices ?? []) refuseDevice(device)
  if ((linux.seccomp?.listenerPath ?? '') !== '')
    throw new RuntimeError('UNIMPLEMENTED', `a seccomp listener (${linux.seccomp?.listenerPath}) is a socket of the host: remove it`)
  return {
    spec: {
      // Hooks are programs of the host, to be run on the host.
      ...without(spec, ['hooks', 'solaris', 'windows', 'vm', 'zos', 'freebsd']),
      // Both would name policies of the host's kernel.
      process: without(spec.process, ['apparmorProfile', 'selinuxLabel']),
      root: { ...spec.root, path: guestRootfs },
      mounts,
      linux: {
        ...without(linux, ['cgroupsPath', 'mountLabel', 'intelRdt', 'uidMappings', 'gidMappings']),
        // Network, IPC and UTS are the pod's, and the pod's are the guest's own: no entry means the agent's.
        namespaces: [{ type: 'mount' }, { type: 'pid' }, { type: 'cgroup' }, ...timeNamespace(spec)],
        ...(linux.resources === null || linux.resources === undefined ? {} : { resources: guestResources(linux.resources, hugepagesMiB) }),
      },
    },
    pidNamespace: pidNamespace(spec),
  }
}

/**
 * What containerd writes for `pid`: no path for a namespace of the container's own, `/proc/<sandbox pid>/ns/pid` for
 * the pod's, where our sandbox pid is always 0, and the target task's pid for kubectl debug --target.
 */
function pidNamespace({ linux }: OciSpec): PidNamespaceMode {
  const path = linux.namespaces?.find(({ type }) => type === 'pid')?.path ?? ''
  if (path === '') return { kind: 'private' }
  const pid = Number(/^\/proc\/(\d{1,10})\/ns\/pid$/.exec(path)?.[1] ?? NaN)
  if (pid === 0) return { kind: 'pod' }
  if (pid > 0) return { kind: 'target', pid }
  throw new RuntimeError('INVALID_ARGUMENT', `PID namespace ${JSON.stringify(path)} is not one a sandbox has: expected /proc/<pid>/ns/pid`)
}

function refuseUserNamespace({ linux }: OciSpec): void {
  const mapped = (linux.uidMappings ?? []).length > 0 || (linux.gidMappings ?? []).length > 0
  if (!mapped && linux.namespaces?.some(({ type }) => type === 'user') !== true) return
  throw new RuntimeError(
    'UNIMPLEMENTED',
    'the container asks for a user namespace (hostUsers: false): not supported in a sandbox, whose root is not the' +
      " host's anyway; remove the field or run the pod with a runc runtime class",
  )
}

/** A namespace that is not listed is the OCI runtime's own: on the host, the host's. Source: runtime-spec, config-linux. */
function refuseHostNamespaces({ linux }: OciSpec): void {
  const listed = new Set(linux.namespaces?.map(({ type }) => type))
  const missing = ['pid', 'network', 'ipc', 'uts', 'mount'].filter((type) => !listed.has(type))
  if (missing.length === 0) return
  throw new RuntimeError(
    'INVALID_ARGUMENT',
    `the container asks for the host's ${missing.join(', ')} namespace: a sandbox with a kernel of its own cannot share` +
      ' it; remove hostNetwork, hostPID or hostIPC, or run the pod with a runc runtime class',
  )
}

function refuseDevice({ path, type, major, minor }: OciDevice): void {
  if (type === 'p') return
  if (type !== 'b' && universalDevice(major ?? -1, minor ?? -1) !== undefined) return
  throw new RuntimeError(
    'UNIMPLEMENTED',
    `device ${path} (${type} ${major ?? '?'}:${minor ?? '?'}) is the host's and cannot be passed into a sandbox: remove it,` +
      ' or for a privileged container set privileged_without_host_devices = true for this runtime',
  )
}

/** A time namespace is the container's own matter; a shared one would be the host's. */
const timeNamespace = ({ linux }: OciSpec): readonly { type: string }[] =>
  linux.namespaces?.some(({ type, path }) => type === 'time' && (path ?? '') === '') === true ? [{ type: 'time' }] : []

type Resources = NonNullable<OciSpec['linux']['resources']>

/** The guest's processors and memory nodes are not the host's, nor are classes of its block devices and network. */
function guestResources(resources: Resources, hugepagesMiB: number): unknown {
  for (const { pageSize, limit } of resources.hugepageLimits ?? []) refuseHugepages(pageSize, Number(limit) / MIB, hugepagesMiB)
  const kept = without(resources, ['network', 'blockIO'])
  const { cpu } = resources
  return cpu === null || cpu === undefined ? kept : { ...kept, cpu: without(cpu, ['cpus', 'mems']) }
}

/** A VM has the pages it was started with. */
function refuseHugepages(pageSize: string, limitMiB: number, hugepagesMiB: number): void {
  // The kubelet names every size of its node, those a container does not want with a limit of 0.
  if (limitMiB === 0) return
  if (pageSize !== HUGEPAGE_SIZE) throw new RuntimeError('UNIMPLEMENTED', `huge pages of ${pageSize} are not available in a sandbox: use pages of ${HUGEPAGE_SIZE}`)
  // Not NaN either.
  if (limitMiB <= hugepagesMiB) return
  throw new RuntimeError(
    'UNIMPLEMENTED',
    `the container may use ${limitMiB} MiB of huge pages (${pageSize}), and its pod's VM was started with ${hugepagesMiB} MiB:` +
      ' set the annotation io.kuasar.hugepages-mib of the pod to what its containers use together',
  )
}

function without<T extends object>(value: T, keys: readonly string[]): Partial<T> {
  const copy: Partial<T> = { ...value }
  for (const key of keys) Reflect.deleteProperty(copy, key)
  return copy
}
