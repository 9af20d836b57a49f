/** Port-forwards, as they are counted where they are carried. */
import { Counter, Gauge, type Registry } from 'prom-client'
import type { ForwardCounts } from '../forward/forwards.ts'

export interface ForwardsSource {
  readonly forwards: { counts(): ForwardCounts }
}

export function gaugeForwards(registry: Registry, ask: () => ForwardsSource | undefined): void {
  registry.registerMetric(
    new Gauge({
      name: 'kuasar_forwards_open',
      help: 'Forwarded connections',
      registers: [],
      collect() {
        this.set(ask()?.forwards.counts().open ?? 0)
      },
    }),
  )
  registry.registerMetric(
    new Counter({
      name: 'kuasar_forwards_total',
      help: 'Connections to forward, by what became of them',
      labelNames: ['result'],
      registers: [],
      collect() {
        const { carried = 0, refused = 0, failed = 0 } = ask()?.forwards.counts() ?? {}
        this.reset()
        for (const [result, count] of Object.entries({ carried, refused, failed })) this.inc({ result }, count)
      },
    }),
  )
  registry.registerMetric(
    new Counter({
      name: 'kuasar_forward_bytes_total',
      help: 'Bytes of forwarded connections: in, from clients; out, to them',
      labelNames: ['direction'],
      registers: [],
      collect() {
        const { bytesIn = 0, bytesOut = 0 } = ask()?.forwards.counts() ?? {}
        this.reset()
        this.inc({ direction: 'in' }, bytesIn)
        this.inc({ direction: 'out' }, bytesOut)
      },
    }),
  )
}
