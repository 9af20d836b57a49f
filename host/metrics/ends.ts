/** What died, what did not answer, and what had to be put right. */
import { Counter, type Registry } from 'prom-client'
import { culprits } from '../sandbox/backend.ts'
import { heartbeats, recoveries, type Observer } from '../sandbox/observer.ts'
import { findingKinds } from '../sandbox/reconcile.ts'

export function countEnds(registry: Registry, backends: readonly string[]): Pick<Observer, 'died' | 'heartbeat' | 'recovered' | 'reconciled'> {
  const registers = [registry]
  const deaths = new Counter({
    name: 'kuasar_deaths_total',
    help: 'Sandboxes that ended though nobody asked, by what ended them, and whether a memory limit had been met',
    labelNames: ['backend', 'of', 'oom'],
    registers,
  })
  const beats = new Counter({
    name: 'kuasar_heartbeats_total',
    help: 'Heartbeats of guests, by how they were heard',
    labelNames: ['backend', 'result'],
    registers,
  })
  const recovered = new Counter({
    name: 'kuasar_recovered_total',
    help: 'What this sandboxer found of an earlier one at its start',
    labelNames: ['result'],
    registers,
  })
  const reconciled = new Counter({
    name: 'kuasar_reconciled_total',
    help: 'Differences between containerd, the ledgers and the guests that were put right',
    labelNames: ['kind'],
    registers,
  })
  for (const backend of backends) {
    for (const of of culprits) for (const oom of ['true', 'false']) deaths.inc({ backend, of, oom }, 0)
    for (const result of heartbeats) beats.inc({ backend, result }, 0)
  }
  for (const result of recoveries) recovered.inc({ result }, 0)
  for (const kind of findingKinds) reconciled.inc({ kind }, 0)
  return {
    died: (backend, of, outOfMemory) => deaths.inc({ backend, of, oom: String(outOfMemory) }),
    heartbeat: (backend, result) => beats.inc({ backend, result }),
    recovered: (result) => recovered.inc({ result }),
    reconciled: (kind) => reconciled.inc({ kind }),
  }
}
