/** The record of a sandbox that was just created, and what a test wants otherwise. */
import type { SandboxRecord } from '#host/sandbox/record.ts'

export function sandboxRecord(changes: Partial<SandboxRecord> = {}): SandboxRecord {
  return {
    version: 1,
    id: 's',
    sandboxer: 'kuasar-fake',
    namespace: 'k8s.io',
    bootId: 'b',
    createdAtMs: 1,
    pod: { name: 'n', namespace: 'ns', uid: 'u', attempt: 0 },
    state: 'created',
    plan: {
      vcpus: 1,
      memoryMiB: 512,
      cgroupPath: '/k',
      annotations: {},
      guest: { hostname: 'h', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 0, hugepagesMiB: 0, memoryLimitBytes: 0 },
    },
    owned: [],
    spans: [],
    cgroupProcs: [],
    containers: [],
    published: '0',
    ...changes,
  }
}
