/** What there is at the moment. */
import { Gauge, type Registry } from 'prom-client'
import type { SandboxState, StateKind } from '../sandbox/state.ts'
import { nowMs } from '../sandbox/trace.ts'

interface Held {
  readonly record: { readonly sandboxer: string }
  readonly state: SandboxState<{ readonly containers: { readonly ids: readonly string[] } }>
}

/** The sandboxes, and the VMs that wait for one. */
export interface SandboxesSource {
  readonly sandboxes: { readonly all: readonly Held[] }
  readonly warm: { readonly all: readonly { readonly state: 'warming' | 'warm'; readonly record: { readonly sandboxer: string } }[] }
}

/** What is gone is not there, and nothing is adopted while anyone is served. */
const states = ['created', 'starting', 'ready', 'stopping', 'stopped', 'adopting'] as const satisfies readonly StateKind[]
const warmStates = ['warming', 'warm'] as const

export function gaugeSandboxes(registry: Registry, backends: ReadonlyMap<string, number>, ask: () => SandboxesSource | undefined): void {
  const names = [...backends.keys()]
  registry.registerMetric(
    new Gauge({
      name: 'kuasar_sandboxes',
      help: 'Sandboxes by state',
      labelNames: ['backend', 'state'],
      registers: [],
      collect() {
        for (const backend of names) for (const state of states) this.set({ backend, state }, 0)
        for (const { record, state } of ask()?.sandboxes.all ?? []) this.inc({ backend: record.sandboxer, state: state.kind })
      },
    }),
  )
  registry.registerMetric(
    new Gauge({
      name: 'kuasar_containers',
      help: 'Containers whose files are prepared in running sandboxes',
      labelNames: ['backend'],
      registers: [],
      collect() {
        for (const backend of names) this.set({ backend }, 0)
        for (const { record, state } of ask()?.sandboxes.all ?? [])
          if (state.kind === 'ready' || state.kind === 'stopping') this.inc({ backend: record.sandboxer }, state.running.containers.ids.length)
      },
    }),
  )
  registry.registerMetric(
    new Gauge({
      name: 'kuasar_start_oldest_seconds',
      help: 'Age of the oldest start under way, 0 when there is none',
      labelNames: ['backend'],
      registers: [],
      collect() {
        const oldest = new Map(names.map((backend) => [backend, 0]))
        for (const { record, state } of ask()?.sandboxes.all ?? [])
          if (state.kind === 'starting') oldest.set(record.sandboxer, Math.max(oldest.get(record.sandboxer) ?? 0, nowMs() - state.sinceMs))
        for (const [backend, ms] of oldest) this.set({ backend }, ms / 1000)
      },
    }),
  )
  registry.registerMetric(
    new Gauge({
      name: 'kuasar_warm_vms',
      help: 'VMs without a pod: those that boot (warming) and those that wait for one (warm)',
      labelNames: ['backend', 'state'],
      registers: [],
      collect() {
        for (const backend of names) for (const state of warmStates) this.set({ backend, state }, 0)
        for (const { record, state } of ask()?.warm.all ?? []) this.inc({ backend: record.sandboxer, state })
      },
    }),
  )
  const wanted = new Gauge({ name: 'kuasar_warm_vms_wanted', help: 'VMs that shall wait for a pod, of the configuration', labelNames: ['backend'], registers: [registry] })
  for (const [backend, count] of backends) wanted.set({ backend }, count)
}
