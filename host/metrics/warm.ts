/** The pool of warm VMs. */
import { Counter, Histogram, type Registry } from 'prom-client'
import { warmFates, type Observer } from '../sandbox/observer.ts'
import { startBuckets } from './buckets.ts'

export function countWarm(registry: Registry, backends: readonly string[]): Pick<Observer, 'warmBooted' | 'warmEnded'> {
  const registers = [registry]
  const boots = new Histogram({
    name: 'kuasar_warm_boot_seconds',
    help: 'Boots of warm VMs, to their Hello',
    labelNames: ['backend'],
    buckets: startBuckets,
    registers,
  })
  const fates = new Counter({
    name: 'kuasar_warm_vms_total',
    help: 'Warm VMs that wait no more, by what became of them',
    labelNames: ['backend', 'fate'],
    registers,
  })
  for (const backend of backends) for (const fate of warmFates) fates.inc({ backend, fate }, 0)
  return {
    warmBooted: (backend, ms) => boots.observe({ backend }, ms / 1000),
    warmEnded: (backend, fate) => fates.inc({ backend, fate }),
  }
}
