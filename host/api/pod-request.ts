/** From CRI's message to the plan's input. */
import type { MessageOut } from '#shared/rpc/any.ts'
import type { NamespaceMode, PodRequest, PodResources } from '../sandbox/plan.ts'

type PodSandboxConfig = MessageOut<'runtime.v1.PodSandboxConfig'>
type Resources = NonNullable<PodSandboxConfig['linux']>['resources']

export function podRequest(id: string, config: PodSandboxConfig, netnsPath: string): PodRequest {
  const { metadata, dnsConfig, linux } = config
  const namespaces = linux?.securityContext?.namespaceOptions
  return {
    sandboxId: id,
    pod: {
      name: metadata?.name ?? '',
      namespace: metadata?.namespace ?? '',
      uid: metadata?.uid ?? '',
      attempt: metadata?.attempt ?? 0,
    },
    netnsPath,
    hostname: config.hostname,
    dns: { servers: dnsConfig?.servers ?? [], searches: dnsConfig?.searches ?? [], options: dnsConfig?.options ?? [] },
    sysctls: linux?.sysctls ?? {},
    annotations: config.annotations,
    cgroupParent: linux?.cgroupParent ?? '',
    namespaces: {
      network: mode(namespaces?.network),
      pid: mode(namespaces?.pid),
      ipc: mode(namespaces?.ipc),
      user: namespaces?.usernsOptions == null ? undefined : mode(namespaces.usernsOptions.mode),
    },
    resources: resources(linux?.resources),
    hugepages: (linux?.resources?.hugepageLimits ?? []).map(({ pageSize, limit }) => ({ pageSize, limitBytes: Number(limit) })),
  }
}

/** A number is a mode this build does not know, which it therefore cannot promise to honour as anything but the pod's own. */
const mode = (value: string | number | undefined): NamespaceMode =>
  value === 'CONTAINER' || value === 'NODE' || value === 'TARGET' ? value : 'POD'

const resources = (given: Resources | undefined): PodResources => ({
  cpuPeriodMicros: Number(given?.cpuPeriod ?? 0),
  cpuQuotaMicros: Number(given?.cpuQuota ?? 0),
  memoryLimitBytes: Number(given?.memoryLimitInBytes ?? 0),
})
