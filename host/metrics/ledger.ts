/** Durable writes of records. */
import { Counter, Histogram, type Registry } from 'prom-client'
import type { RecordStore } from '../sandbox/store.ts'
import { shortBuckets } from './buckets.ts'

const operations = ['write', 'remove'] as const
type Operation = (typeof operations)[number]

export function countLedger(registry: Registry): (store: RecordStore) => RecordStore {
  const registers = [registry]
  const labelNames = ['operation']
  const took = new Histogram({ name: 'kuasar_ledger_seconds', help: 'Durable writes of sandboxes\' records', labelNames, buckets: shortBuckets, registers })
  const failures = new Counter({ name: 'kuasar_ledger_failures_total', help: 'Writes of records that failed', labelNames, registers })
  for (const operation of operations) {
    took.zero({ operation })
    failures.inc({ operation }, 0)
  }
  const measured = async (operation: Operation, task: Promise<void>): Promise<void> => {
    const startMs = performance.now()
    try {
      await task
    } catch (error) {
      failures.inc({ operation })
      throw error
    }
    took.observe({ operation }, (performance.now() - startMs) / 1000)
  }
  return (store) => ({
    write: (id, text) => measured('write', store.write(id, text)),
    remove: (id) => measured('remove', store.remove(id)),
    list: () => store.list(),
    quarantine: (id) => store.quarantine(id),
  })
}
