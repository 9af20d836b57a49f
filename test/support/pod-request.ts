/** A pod as Create hands it over, and what a test wants otherwise; a machine for it. */
import type { PodRequest, Sizing } from '#host/sandbox/plan.ts'

export const noLimits: PodRequest['resources'] = { cpuPeriodMicros: 0, cpuQuotaMicros: 0, memoryLimitBytes: 0 }

export const sizing: Sizing = { vcpus: 1, memoryMiB: 512, memoryMiBMin: 256, reserveMiB: 160, machine: { cpus: 8, memoryMiB: 16_384 } }

export const podRequest = (changes: Partial<PodRequest> = {}): PodRequest => ({
  sandboxId: '0123456789abcdef',
  pod: { name: 'web', namespace: 'shop', uid: 'u', attempt: 0 },
  netnsPath: '/var/run/netns/cni-1',
  hostname: 'web-0',
  dns: { servers: ['10.0.0.10'], searches: ['shop.svc'], options: ['ndots:5'] },
  sysctls: {},
  annotations: {},
  cgroupParent: '',
  namespaces: { network: 'POD', pid: 'CONTAINER', ipc: 'POD', user: undefined },
  resources: noLimits,
  hugepages: [],
  ...changes,
})
