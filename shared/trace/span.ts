/** A named stretch of time on one clock: milliseconds since the epoch, fractions allowed. */
export interface Span {
  readonly name: string
  readonly startMs: number
  readonly endMs: number
  /** Who measured it: "cri", "sandboxer", "guest", … */
  readonly source: string
  readonly attributes?: Readonly<Record<string, string>>
}

/** A set of spans laid on one time line, ready to draw. */
export interface Waterfall {
  readonly title: string
  readonly startMs: number
  readonly totalMs: number
  readonly spans: readonly Span[]
}

/**
 * Orders spans by start (longer first where they start together) and measures the line they lie on.
 * Spans that end before they start come from clocks that disagree; they are drawn as a point, not hidden.
 */
export function waterfall(title: string, spans: readonly Span[]): Waterfall {
  const sane = spans.map((span) => (span.endMs < span.startMs ? { ...span, endMs: span.startMs } : span))
  const ordered = sane.toSorted((a, b) => a.startMs - b.startMs || b.endMs - a.endMs)
  const startMs = ordered[0]?.startMs ?? 0
  const endMs = ordered.reduce((latest, span) => Math.max(latest, span.endMs), startMs)
  return { title, startMs, totalMs: endMs - startMs, spans: ordered }
}
