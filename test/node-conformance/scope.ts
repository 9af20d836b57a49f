/** What a pod with a kernel of its own cannot do, each with its reason, and what fails or is skipped whatever the runtime is. */
import type { Spec } from './suite.ts'

interface Exception {
  readonly group: string
  /** Of the spec's name; all of a group when absent. */
  readonly name?: RegExp
  readonly reason: string
}

const hostNetwork = "sockets of the host's kernel are not the guest's: the pod asks for the host's network and is refused"

/** Never run against a sandbox. Only what is of the host's kernel belongs here. */
const exceptions: readonly Exception[] = [
  { group: 'Downward API', name: /if pod uses host network$/, reason: hostNetwork },
  { group: 'Kubelet with pods in a privileged namespace', reason: hostNetwork },
  { group: 'KubeletManagedEtcHosts', reason: hostNetwork },
  { group: 'Networking', name: /node-pod communication/, reason: hostNetwork },
  { group: 'Pod Host IPs', name: /host-network pod$/, reason: hostNetwork },
]

const matching = <T extends Exception>(list: readonly T[], { group, name }: Spec): T | undefined =>
  list.find((entry) => entry.group === group && (entry.name?.test(name) ?? true))

/** Undefined for a spec that applies to a sandbox. */
export const whyNot = (spec: Spec): string | undefined => matching(exceptions, spec)?.reason

interface Known extends Exception {
  /** `runc`, or all sandboxes; of all runtimes when absent */
  readonly of?: 'runc' | 'sandbox'
  /** What the suite says when it fails or skips the spec as it must. Anything else is one more failure. */
  readonly says: RegExp
}

/** What ran and did not pass, and why. */
const known: readonly Known[] = [
  {
    group: 'ContainerMetrics',
    of: 'sandbox',
    says: /container_cpu_usage_seconds_total/,
    reason: "cadvisor reads the cgroups of the host's kernel, and a container's is in its guest: docs/kubernetes.md, section 4",
  },
  {
    group: 'Summary API',
    of: 'sandbox',
    says: /ProcessStats/,
    reason: "as on runc; and the pod's memory is its machine's, more than the 80 MB that the spec allows, its network and processes are the guest's: docs/kubernetes.md, section 4",
  },
  {
    group: 'Kubelet PodOverhead handling',
    of: 'sandbox',
    says: /expected pod to be running and ready/,
    reason: "the spec's own RuntimeClass leaves 140Mi for what is not the container's, and a machine needs more: docs/kubernetes.md, section 3",
  },
  { group: 'Summary API', of: 'runc', says: /missing expected element (kubelet|runtime|misc), .Node.SystemContainers/, reason: 'the machine this ran on: the kubelet and containerd have no cgroups of their own to count' },
  { group: 'ContainerMetrics', of: 'runc', says: /container_fs_writes_total/, reason: 'the machine this ran on: its kernel counts no I/O of a cgroup' },
  { group: 'Kubelet', says: /\/sh: line 0/, reason: "Debian's busybox, whose shell names the line of an error" },
  { group: 'Networking', of: 'runc', says: /Command echo hostName \| nc -w 1 -u/, reason: "Debian's busybox, whose nc has no UDP" },
  { group: 'PrivilegedPod', of: 'runc', says: /add dummy1 type dummy.*Operation not supported/, reason: "the machine this ran on: its kernel has no driver for that device, a guest's has" },
  {
    group: 'Mount recursive read-only',
    of: 'sandbox',
    says: /^runtime does not support recursive read-only mounts$/,
    reason: 'containerd 2.1 asks no runtime but runc whether it has them, and says no for all others. From 2.2 on it asks, and a sandbox has them',
  },
  {
    group: 'Mount recursive read-only',
    of: 'sandbox',
    says: /pod "mount-ro-\S+ failed with status/,
    reason: "a mount that an init container makes in an emptyDir goes with it when no other container has the volume: docs/containerd.md, section 5",
  },
  { group: 'Mount recursive read-only', of: 'runc', says: /^runtime supports recursive read-only mounts$/, reason: 'one half is for runtimes that have them, one for those that have not' },
]

/** Of a spec that failed or was skipped: why it must. Undefined when nobody knows. */
export const whyElse = (spec: Spec, handler: string, message: string): string | undefined =>
  matching(known.filter(({ of, says }) => (of === undefined || (of === 'runc') === (handler === 'runc')) && says.test(message)), spec)?.reason
