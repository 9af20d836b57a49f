/** The steps of one sandbox's start and of its latest containers, on the host's clock. Bounded. */
import type { Span } from '#shared/trace/span.ts'
import type { BootMark } from './guest.ts'

/** Of the start, which is kept for the sandbox's life. */
const START_SPANS_MAX = 128
/** Of containers; the oldest go first. */
const LATER_SPANS_MAX = 128
const NAME_LENGTH_MAX = 48

export class Trace {
  readonly #start: Span[]
  readonly #later: Span[] = []
  readonly #onLater: ((span: Span) => void) | undefined
  #started = false

  /** `onLater` is told of each span of a container. */
  constructor(spans: readonly Span[] = [], onLater?: (span: Span) => void) {
    this.#onLater = onLater
    this.#start = spans.slice(0, START_SPANS_MAX)
    this.#later = spans.slice(START_SPANS_MAX)
  }

  add(span: Span): void {
    if (!this.#started) {
      if (this.#start.length < START_SPANS_MAX) this.#start.push(span)
      return
    }
    this.#onLater?.(span)
    this.#later.push(span)
    if (this.#later.length > LATER_SPANS_MAX) this.#later.shift()
  }

  /** What comes now belongs to containers. */
  startIsOver(): void {
    this.#started = true
  }

  get spans(): readonly Span[] {
    return [...this.#start, ...this.#later]
  }

  /** Times `task`, whether it succeeds or not. */
  async measure<T>(name: string, task: () => Promise<T>, attributes?: Readonly<Record<string, string>>): Promise<T> {
    const startMs = nowMs()
    try {
      return await task()
    } finally {
      this.add({ name, startMs, endMs: nowMs(), source: 'sandboxer', ...(attributes && { attributes }) })
    }
  }
}

/** How far the steady clock may drift from the wall's before it is set anew, in ms. */
const DRIFT_MS_MAX = 2
let origin = performance.timeOrigin

/** Milliseconds since the epoch with fractions: steady, but following the wall clock when that is stepped. */
export function nowMs(): number {
  const wall = Date.now()
  if (Math.abs(origin + performance.now() - wall) > DRIFT_MS_MAX) origin = wall - performance.now()
  return origin + performance.now()
}

/**
 * A guest's marks as spans on the host's clock: each lasts until the next, the last until the message arrived. The
 * guest's boot clock is tied to ours by that arrival, late by one trip over the link. `notBeforeMs` bounds what a guest
 * may claim.
 */
export function guestSpans(marks: readonly BootMark[], sentAt: bigint, arrivedAtMs: number, notBeforeMs: number, withKernel: boolean): Span[] {
  const onHost = (boottimeNanos: bigint) =>
    Math.min(arrivedAtMs, Math.max(notBeforeMs, arrivedAtMs - Number(sentAt - boottimeNanos) / 1e6))
  const points = marks.map((mark) => ({ name: `guest.${printable(mark.name)}`, atMs: onHost(mark.boottimeNanos) }))
  if (withKernel) points.unshift({ name: 'guest.kernel', atMs: onHost(0n) })
  return points
    .toSorted((a, b) => a.atMs - b.atMs)
    .map(({ name, atMs }, index, sorted) => ({ name, startMs: atMs, endMs: sorted[index + 1]?.atMs ?? arrivedAtMs, source: 'guest' }))
}

const printable = (name: string): string => name.slice(0, NAME_LENGTH_MAX).replace(/[^\w.-]/g, '?')
