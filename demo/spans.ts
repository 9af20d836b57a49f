/** The spans of one pod's start: the CRI calls as this process saw them, the rest as the sandboxer recorded it. */
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import type { Span } from '#shared/trace/span.ts'
import type { TestNode } from '#test/node/node.ts'
import { adminSocket } from './config.ts'
import { staged } from './stages.ts'

export interface Timed<T> {
  readonly value: T
  readonly spans: readonly Span[]
}

/** Runs a CRI call and keeps when it began and ended. */
export async function timed<T>(name: string, call: () => Promise<T>): Promise<Timed<T>> {
  const startMs = nowMs()
  const value = await call()
  return { value, spans: [{ name: `CRI call ${name}`, startMs, endMs: nowMs(), source: 'cri' }] }
}

export interface StartSpans {
  readonly stages: readonly Span[]
  /** The finer ones between and below them */
  readonly steps: readonly Span[]
}

/**
 * Everything up to the first line `containerId` printed, as `firstLineTime` (RFC 3339, from its log) says. Spans of
 * other containers are left out.
 */
export async function startSpans(
  node: TestNode,
  podId: string,
  containerId: string,
  calls: readonly Span[],
  firstLineTime: string,
): Promise<StartSpans> {
  const connection = connectGrpc(node.path(adminSocket))
  try {
    const { admin } = loadServices(loadProtos(), ['admin'])
    const { spans } = await connection.calls(admin).Trace({ id: podId })
    const recorded = spans
      .filter((span) => span.containerId === '' || span.containerId === containerId)
      .map((span): Span => ({
        name: span.name,
        startMs: millis(span.startNanos),
        endMs: millis(span.endNanos),
        source: span.attributes['source'] ?? 'sandboxer',
        attributes: span.attributes,
      }))
    const outputMs = rfc3339Millis(firstLineTime)
    const { stages, steps } = staged(recorded)
    // From the end of crun create, for that container waits for its start.
    const startMs = stages.at(-1)?.endMs ?? outputMs
    const early = (spans: readonly Span[]) => spans.filter((span) => span.startMs <= outputMs)
    return { stages: early([...calls, ...stages, { name: 'first output', startMs, endMs: outputMs, source: 'cri' }]), steps: early(steps) }
  } finally {
    connection.close()
  }
}

function nowMs(): number {
  return performance.timeOrigin + performance.now()
}

function millis(nanos: string): number {
  return Number(BigInt(nanos) / 1000n) / 1000
}

/** `Date` keeps milliseconds only; the log's times have nine digits. */
function rfc3339Millis(time: string): number {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? '0'
  return Math.floor(Date.parse(time) / 1000) * 1000 + Number(`0.${fraction}`) * 1000
}
