/** kuasar.admin.v1: what operators see through kuasarctl. Its socket is root's alone. */
import { RuntimeError } from '#shared/errors.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import { createInspection } from './inspection.ts'
import type { SandboxRecord } from '../sandbox/record.ts'
import type { Sandbox } from '../sandbox/sandbox.ts'
import type { Sandboxes } from '../sandbox/sandboxes.ts'
import type { WarmPool } from '../sandbox/warm-pool.ts'

const CONSOLE_LINES = 100
const CONSOLE_LINES_MAX = 1000

/** `debug` is the configuration's sandboxer.debug; `metrics` answers Prometheus' text. */
export function createAdmin(sandboxes: Sandboxes, warm: Pick<WarmPool, 'all'>, metrics: () => Promise<string>, debug: boolean): Handlers<ServiceTypesOf<'admin'>> {
  return {
    List() {
      const pods = sandboxes.all.map(({ record, state }) => ({ record, state: state.kind, vmmPid: 'running' in state ? (record.vmmPid ?? 0) : 0 }))
      return { sandboxes: [...pods, ...warm.all].toSorted((a, b) => a.record.createdAtMs - b.record.createdAtMs).map(summary) }
    },
    Inspect: ({ id }) => ({ record: JSON.stringify({ ...pick(sandboxes, id).record, spans: undefined }, null, 2) }),
    async Console({ id, lines }) {
      return { lines: await pick(sandboxes, id).consoleTail(Math.min(lines === 0 ? CONSOLE_LINES : lines, CONSOLE_LINES_MAX)) }
    },
    Trace: ({ id }) => ({
      spans: pick(sandboxes, id).trace.spans.map(({ name, startMs, endMs, source, attributes }) => ({
        name,
        startNanos: nanos(startMs),
        endNanos: nanos(endMs),
        containerId: attributes?.['container'] ?? '',
        attributes: { ...attributes, source },
      })),
    }),
    Metrics: async () => ({ text: await metrics() }),
    ...createInspection((id) => pick(sandboxes, id), debug),
  }
}

const summary = ({ record, state, vmmPid }: { readonly record: SandboxRecord; readonly state: string; readonly vmmPid: number }) => ({
  id: record.id,
  backend: record.sandboxer,
  state,
  createdAtNanos: nanos(record.createdAtMs),
  vmmPid,
  podNamespace: record.pod.namespace,
  podName: record.pod.name,
})

const nanos = (ms: number): string => String(BigInt(Math.round(ms * 1000)) * 1000n)

/** By whole id or by a beginning that only one has. */
function pick(sandboxes: Sandboxes, id: string): Sandbox {
  const exact = sandboxes.find(id)
  if (exact !== undefined) return exact
  const matching = id === '' ? [] : sandboxes.all.filter((sandbox) => sandbox.id.startsWith(id))
  const [only] = matching
  if (only === undefined) throw new RuntimeError('NOT_FOUND', `no sandbox has the id ${JSON.stringify(id)}`)
  if (matching.length > 1) throw new RuntimeError('INVALID_ARGUMENT', `${matching.length} sandboxes have ids that begin with ${id}: give more of it`)
  return only
}
