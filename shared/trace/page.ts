/** A waterfall as one self-contained HTML page: no script, no request to anywhere. */
import { formatMs } from './bars.ts'
import type { Span, Waterfall } from './span.ts'

const rowPx = 26
const labelPx = 260
const chartPx = 860

/** Text is escaped: names and attributes may come from a guest. */
export function page(chart: Waterfall, facts: Readonly<Record<string, string>>): string {
  const height = chart.spans.length * rowPx + 40
  const rows = chart.spans.map((span, index) => row(chart, span, index)).join('\n')
  const factRows = Object.entries(facts)
    .map(([key, value]) => `<dt>${escape(key)}</dt><dd>${escape(value)}</dd>`)
    .join('')
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escape(chart.title)}</title>
<style>
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }
body { max-width: ${labelPx + chartPx + 40}px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem } text { font-size: 12px; fill: currentColor } .tick { stroke: currentColor; opacity: .15 }
.muted { opacity: .65 } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dd { margin: 0 }
.cri { fill: #7a5195 } .sandboxer { fill: #3b7dd8 } .guest { fill: #2a9d6f } .other { fill: #c06c2b }
svg { width: 100%; height: auto }
</style></head><body>
<h1>${escape(chart.title)}</h1>
<p class="muted">${formatMs(chart.totalMs)} ms in all. Hover a bar for its figures.</p>
<svg viewBox="0 0 ${labelPx + chartPx} ${height}" role="img" aria-label="${escape(chart.title)}">
${ticks(chart.totalMs, height)}
${rows}
</svg>
<dl>${factRows}</dl>
</body></html>
`
}

function row(chart: Waterfall, span: Span, index: number): string {
  const scale = chart.totalMs > 0 ? chartPx / chart.totalMs : 0
  const x = labelPx + (span.startMs - chart.startMs) * scale
  const width = Math.max(1.5, (span.endMs - span.startMs) * scale)
  const y = 24 + index * rowPx
  const tookMs = formatMs(span.endMs - span.startMs)
  const kind = ['cri', 'sandboxer', 'guest'].includes(span.source) ? span.source : 'other'
  const details = Object.entries(span.attributes ?? {}).map(([key, value]) => `\n${key}: ${value}`)
  const title = `${span.name} (${span.source}): starts at ${formatMs(span.startMs - chart.startMs)} ms, takes ${tookMs} ms`
  const inside = x + width + 60 < labelPx + chartPx
  return `<g><title>${escape(title + details.join(''))}</title>
<text x="${labelPx - 8}" y="${y + 14}" text-anchor="end">${escape(span.name)}</text>
<rect class="${kind}" x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="18" rx="2"/>
<text x="${(inside ? x + width + 4 : x - 4).toFixed(1)}" y="${y + 14}" text-anchor="${inside ? 'start' : 'end'}">${tookMs}</text></g>`
}

function ticks(totalMs: number, height: number): string {
  if (totalMs <= 0) return ''
  const stepMs = niceStep(totalMs / 8)
  const marks: string[] = []
  for (let atMs = 0; atMs <= totalMs; atMs += stepMs) {
    const x = (labelPx + (atMs / totalMs) * chartPx).toFixed(1)
    marks.push(`<line class="tick" x1="${x}" x2="${x}" y1="16" y2="${height}"/><text x="${x}" y="12">${formatMs(atMs)}</text>`)
  }
  return marks.join('')
}

/** The next 1, 2 or 5 times a power of ten. */
function niceStep(atLeastMs: number): number {
  const power = 10 ** Math.floor(Math.log10(atLeastMs))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= atLeastMs) ?? 10 * power
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character)
}
