/**
 * What a sandbox with a kernel of its own cannot do, each with its reason: the specs that do not apply to it, the one that
 * applies and fails, and what critest itself passes over.
 */
import type { Spec } from './critest.ts'

interface Exception {
  readonly group: string
  /** Of the spec's name; all of a group when absent. */
  readonly name?: RegExp
  readonly reason: string
}

/** Never run. Only what is of the host's kernel belongs here: its processes, IPC, network, AppArmor, SELinux and user ids. */
const exceptions: readonly Exception[] = [
  {
    group: 'AppArmor',
    reason: "profiles are loaded into the host's kernel; the containers run on another",
  },
  {
    group: 'SELinux',
    reason: "labels are of the host's policy; the containers run on another kernel",
  },
  {
    group: 'Security Context',
    name: /: runtime should support HostPID$/,
    reason: "processes of the host's kernel are not processes of the guest's",
  },
  {
    group: 'Security Context',
    name: /: runtime should support HostIpc is true$/,
    reason: "shared memory segments of the host's kernel are not the guest's",
  },
  {
    group: 'Security Context',
    name: /: runtime should support HostNetwork is true$/,
    reason: "sockets of the host's kernel are not the guest's",
  },
  {
    group: 'Streaming',
    name: /: runtime should support portforward in host network$/,
    reason: "sockets of the host's kernel are not the guest's",
  },
  {
    group: 'Security Context',
    name: /^UserNamespaces: .*: runtime should support NamespaceMode_POD$/,
    reason: "user ids are mapped by the host's kernel; the containers run on another",
  },
]

interface Limit extends Exception {
  /** What critest reports when it fails as it must. Any other failure is one more. */
  readonly failure: RegExp
}

/** Run, and known to fail: Kubernetes has it, a machine of another kernel has not. */
const limits: readonly Limit[] = [
  {
    group: 'Container Mount Propagation',
    name: /: mount with 'rshared' /,
    failure: /asks for rshared propagation/,
    reason: "refused by name: a mount made in the guest's kernel cannot appear on the host",
  },
]

/** What critest skips, in its words, and why it does. Of a sandbox alone where runc's answer is another. */
const skips: readonly { readonly says: RegExp; readonly reason: string }[] = [
  {
    says: /^runtime does not implement recursive readonly mounts$/,
    reason: 'containerd 2.1 asks no runtime but runc whether it has them, and refuses them to all others. A sandbox has them',
  },
  {
    says: /^no runtime handler found which supports user namespaces$/,
    reason: 'containerd 2.1 asks no runtime but runc whether it has them. A sandbox refuses them by name',
  },
  { says: /^ContainerStatus\.image_id is empty/, reason: 'containerd 2.1 fills that field for no runtime' },
  { says: /^AppArmor is disabled on this host$/, reason: 'the machine this ran on' },
]

const matching = <T extends Exception>(list: readonly T[], { group, name }: Spec): T | undefined =>
  list.find((entry) => entry.group === group && (entry.name?.test(name) ?? true))

/** Undefined for a spec that applies. */
export const whyNot = (spec: Spec): string | undefined => matching(exceptions, spec)?.reason

/** Of a spec that failed: why it must. Undefined for a failure nobody expects. */
export function whyFailed(spec: Spec, failure: string): string | undefined {
  const limit = matching(limits, spec)
  return limit?.failure.test(failure) === true ? limit.reason : undefined
}

/** Of a spec that must fail: why. It passes when this list is out of date. */
export const whyMustFail = (spec: Spec): string | undefined => matching(limits, spec)?.reason

/** Of a spec that critest skipped. Undefined when nobody knows why. */
export const whySkipped = (message: string): string | undefined => skips.find(({ says }) => says.test(message))?.reason
