/**
 * The sandboxer's own process, by the names that Prometheus' clients have in common. prom-client's own default metrics would look
 * at the event loop a hundred times a second, for as long as the daemon lives.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { PerformanceObserver, constants } from 'node:perf_hooks'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { shortBuckets } from './buckets.ts'

/** Between two looks at the event loop's lag, in ms: what holds it up for longer is seen always, what is shorter sometimes. */
const LAG_MS = 500

export function measureProcess(registry: Registry, version: string): void {
  const registers = [registry]
  const gauge = (name: string, help: string, look: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(look())
      },
    })
  new Gauge({ name: 'kuasar_build_info', help: 'Versions; the value is 1', labelNames: ['version', 'node'], registers }).set({ version, node: process.version }, 1)
  gauge('process_start_time_seconds', 'When the process started, since the epoch', () => startedAt)
  gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss())
  gauge('process_open_fds', 'Open descriptors', openDescriptors)
  gauge('process_max_fds', 'Descriptors that may be open', maxDescriptors)
  gauge('nodejs_heap_size_used_bytes', 'Live and dead objects in V8\'s heap', () => process.memoryUsage().heapUsed)
  gauge('nodejs_external_memory_bytes', 'Buffers outside of V8\'s heap', () => process.memoryUsage().external)
  registry.registerMetric(
    new Counter({
      name: 'process_cpu_seconds_total',
      help: 'Processor time, of user and system',
      registers: [],
      collect() {
        const { user, system } = process.cpuUsage()
        this.reset()
        this.inc((user + system) / 1e6)
      },
    }),
  )
  measureCollections(registers)
  measureLag(registers)
}

const startedAt = Math.round(performance.timeOrigin) / 1000

/** 0 when it cannot be looked up, as when none is free. */
function openDescriptors(): number {
  try {
    // The one it is read through is not counted.
    return readdirSync('/proc/self/fd').length - 1
  } catch {
    return 0
  }
}

/** The soft limit. Source: proc(5), limits. */
function maxDescriptors(): number {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

const collections: ReadonlyMap<number, string> = new Map([
  [constants.NODE_PERFORMANCE_GC_MAJOR, 'major'],
  [constants.NODE_PERFORMANCE_GC_MINOR, 'minor'],
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL, 'incremental'],
  [constants.NODE_PERFORMANCE_GC_WEAKCB, 'weakcb'],
])

function measureCollections(registers: Registry[]): void {
  const took = new Histogram({ name: 'nodejs_gc_duration_seconds', help: 'Garbage collections of V8', labelNames: ['kind'], buckets: shortBuckets, registers })
  for (const kind of collections.values()) took.zero({ kind })
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) took.observe({ kind: collections.get(kindOf(entry)) ?? 'other' }, entry.duration / 1000)
  }).observe({ entryTypes: ['gc'] })
}

/** Node's types know its entries of this type less well than its documentation does (perf_hooks, performanceEntry.detail). */
function kindOf(entry: object): number {
  const detail: unknown = Reflect.get(entry, 'detail')
  return typeof detail === 'object' && detail !== null && 'kind' in detail ? Number(detail.kind) : 0
}

function measureLag(registers: Registry[]): void {
  const lag = new Histogram({ name: 'kuasar_event_loop_lag_seconds', help: `How late a timer was, looked at every ${LAG_MS} ms`, buckets: shortBuckets, registers })
  let dueMs = performance.now() + LAG_MS
  setInterval(() => {
    const now = performance.now()
    lag.observe(Math.max(0, now - dueMs) / 1000)
    dueMs = now + LAG_MS
  }, LAG_MS).unref()
}
