/**
 * What the sandboxer counts, in the text format of Prometheus: docs/metrics.md has every metric, and a test compares the two.
 *
 * Counters are told (`observer`, `onCall`, …); gauges are looked up when somebody asks, so they cannot drift from what is. Labels
 * have words of ours and names of the configuration, never an id and never a guest's text: what there may be of each is bounded.
 */
import { Registry } from 'prom-client'
import type { CallReport } from '#shared/ttrpc/options.ts'
import type { GuestRefusal } from '../sandbox/guest.ts'
import type { Observer } from '../sandbox/observer.ts'
import type { RecordStore } from '../sandbox/store.ts'
import { countCalls } from './calls.ts'
import { countEnds } from './ends.ts'
import { gaugeForwards, type ForwardsSource } from './forwards.ts'
import { countGuests } from './guests.ts'
import { countLedger } from './ledger.ts'
import { gaugePresence } from './presence.ts'
import { measureProcess } from './process.ts'
import { gaugeSandboxes, type SandboxesSource } from './sandboxes.ts'
import { countStarts } from './starts.ts'
import { countWarm } from './warm.ts'

export interface MetricsOptions {
  /** Names of the configuration's tables, with the warm VMs wanted of each */
  readonly backends: ReadonlyMap<string, number>
  /** The sandboxer's */
  readonly version: string
}

export type MetricsSource = SandboxesSource & ForwardsSource

export interface Metrics {
  readonly contentType: string
  readonly text: () => Promise<string>
  /** To be told by those who know */
  readonly observer: Observer
  /** A call of containerd's or of kuasarctl's is over. */
  readonly onCall: (report: CallReport) => void
  /** A guest's call is over. */
  readonly onGuestCall: (report: CallReport) => void
  readonly onGuestRefused: (what: GuestRefusal) => void
  /** The same store, its writes measured and its failures counted. */
  readonly store: (store: RecordStore) => RecordStore
  /** The same news of containerd, noted. */
  readonly presence: (news: AsyncIterable<'up' | 'down'>) => AsyncIterable<'up' | 'down'>
  /** Whom gauges ask. Before it they have no value. */
  readonly watch: (source: MetricsSource) => void
}

export function createMetrics({ backends, version }: MetricsOptions): Metrics {
  const registry = new Registry()
  const names = [...backends.keys()]
  let source: MetricsSource | undefined
  const ask = () => source
  gaugeSandboxes(registry, backends, ask)
  const calls = countCalls(registry)
  const guests = countGuests(registry)
  const observer: Observer = { ...countStarts(registry, names), ...countEnds(registry, names), ...countWarm(registry, names) }
  gaugeForwards(registry, ask)
  const store = countLedger(registry)
  const presence = gaugePresence(registry)
  measureProcess(registry, version)
  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    observer,
    onCall: calls,
    onGuestCall(report) {
      calls(report)
      guests.answered(report)
    },
    onGuestRefused: guests.refused,
    store,
    presence,
    watch: (given) => void (source = given),
  }
}
