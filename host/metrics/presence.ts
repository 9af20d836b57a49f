/** Whether containerd is there. */
import { Gauge, type Registry } from 'prom-client'

export function gaugePresence(registry: Registry): (news: AsyncIterable<'up' | 'down'>) => AsyncIterable<'up' | 'down'> {
  const up = new Gauge({ name: 'kuasar_containerd_up', help: 'Whether containerd answers: 1 or 0', registers: [registry] })
  return async function* (news) {
    for await (const now of news) {
      up.set(now === 'up' ? 1 : 0)
      yield now
    }
  }
}
