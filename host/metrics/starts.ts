/** Starts, and where their time went: what `kuasarctl trace` draws of one, of all. */
import { Counter, Histogram, type Registry } from 'prom-client'
import type { Span } from '#shared/trace/span.ts'
import type { Observer } from '../sandbox/observer.ts'
import { startSteps } from '../sandbox/start.ts'
import { startBuckets } from './buckets.ts'

/**
 * Marks of a guest's boot that are counted: PID 1's and the agent's (guest/init, guest/agent.ts). A guest may write any other name.
 * How long such a stage took is the guest's claim, within its start.
 */
const guestStages: ReadonlySet<string> = new Set(
  ['kernel', 'init', 'mounts', 'modules', 'drivers', 'switch-root', 'agent-exec', 'agent-main', 'hello', 'configured', 'listening'].map((mark) => `guest.${mark}`),
)

const containerStages: ReadonlyMap<string, string> = new Map([
  ['prepare', 'prepare'],
  ['guest.crun-create', 'crun-create'],
])

/** What the sandboxer and its backends measure has names of theirs. */
const isStage = ({ name, source }: Span): boolean => source !== 'guest' || guestStages.has(name)

const seconds = ({ startMs, endMs }: Span): number => Math.max(0, endMs - startMs) / 1000

export function countStarts(registry: Registry, backends: readonly string[]): Pick<Observer, 'started' | 'startFailed' | 'containerSpan'> {
  const registers = [registry]
  const whole = new Histogram({
    name: 'kuasar_start_seconds',
    help: 'Starts that succeeded, from Start to its answer',
    labelNames: ['backend', 'kind'],
    buckets: startBuckets,
    registers,
  })
  const stage = new Histogram({
    name: 'kuasar_start_stage_seconds',
    help: 'Stages of the starts that succeeded; they overlap',
    labelNames: ['backend', 'kind', 'stage'],
    buckets: startBuckets,
    registers,
  })
  const failures = new Counter({
    name: 'kuasar_start_failures_total',
    help: 'Starts that failed, by the step',
    labelNames: ['backend', 'step'],
    registers,
  })
  const container = new Histogram({
    name: 'kuasar_container_stage_seconds',
    help: 'Stages of containers\' creations',
    labelNames: ['backend', 'stage'],
    buckets: startBuckets,
    registers,
  })
  for (const backend of backends) {
    for (const kind of ['cold', 'warm']) whole.zero({ backend, kind })
    for (const step of [...startSteps, 'other', 'cancelled']) failures.inc({ backend, step }, 0)
  }
  return {
    started(backend, kind, spans) {
      // A guest may name a mark often, and a claim that failed leaves its own spans: one for each start, the longest.
      const longest = new Map<string, number>()
      for (const span of spans.filter(isStage)) longest.set(span.name, Math.max(longest.get(span.name) ?? 0, seconds(span)))
      for (const [name, took] of longest) {
        if (name === 'start') whole.observe({ backend, kind }, took)
        else stage.observe({ backend, kind, stage: name }, took)
      }
    },
    startFailed(backend, step) {
      failures.inc({ backend, step })
    },
    containerSpan(backend, span) {
      const name = containerStages.get(span.name)
      if (name !== undefined) container.observe({ backend, stage: name }, seconds(span))
    },
  }
}
