/** A waterfall as text: one line per span, bars in eighths of a character. */
import type { Waterfall } from './span.ts'

const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉']

export interface BarOptions {
  /** Characters for a whole line. */
  readonly width: number
}

/** Plain text, no escape sequences; every line is at most `width` characters. */
export function bars(chart: Waterfall, options: BarOptions): string {
  const names = chart.spans.map((span) => span.name)
  const nameWidth = Math.min(28, Math.max(4, ...names.map((name) => name.length)))
  const numberWidth = Math.max(6, formatMs(chart.totalMs).length)
  const barWidth = Math.max(10, options.width - nameWidth - 2 * numberWidth - 8)
  const scale = chart.totalMs > 0 ? barWidth / chart.totalMs : 0
  const lines = [
    chart.title,
    `${'span'.padEnd(nameWidth)}  ${'start'.padStart(numberWidth)}  ${'took'.padStart(numberWidth)}  ms`,
  ]
  for (const span of chart.spans) {
    const offsetMs = span.startMs - chart.startMs
    const tookMs = span.endMs - span.startMs
    const name = clip(span.name, nameWidth).padEnd(nameWidth)
    const numbers = `${formatMs(offsetMs).padStart(numberWidth)}  ${formatMs(tookMs).padStart(numberWidth)}`
    lines.push(`${name}  ${numbers}  ${bar(offsetMs * scale, tookMs * scale, barWidth)}`)
  }
  return `${lines.join('\n')}\n`
}

function bar(start: number, length: number, width: number): string {
  const lead = Math.min(Math.floor(start), width - 1)
  const room = width - lead
  const cells = Math.min(length, room)
  const full = Math.floor(cells)
  const rest = full < room ? (eighths[Math.floor((cells - full) * 8)] ?? '') : ''
  const drawn = '█'.repeat(full) + rest
  return ' '.repeat(lead) + (drawn === '' ? '▏' : drawn)
}

function clip(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`
}

/** Whole milliseconds from ten up, one decimal below. */
export function formatMs(ms: number): string {
  return ms >= 10 || ms === 0 ? ms.toFixed(0) : ms.toFixed(1)
}
