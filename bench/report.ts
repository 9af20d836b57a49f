/** A benchmark's outcome as a table of text. */
import { type Figure, type Outcome, isMet } from './benchmark.ts'
import { median } from './sampling.ts'

export function table(title: string, { series, figures, notes = [] }: Outcome): string {
  const seriesRows = series.map(({ name, unit, samples }) => [
    name,
    number(median(samples)),
    number(Math.min(...samples)),
    number(Math.max(...samples)),
    unit,
    `${samples.length}`,
  ])
  const figureRows = figures.map((figure) => [figure.name, number(figure.value), figure.unit, target(figure)])
  const parts = [columns([[title, 'median', 'least', 'most', '', 'samples'], ...seriesRows])]
  if (figureRows.length > 0) parts.push(columns(figureRows))
  if (notes.length > 0) parts.push(notes.map((note) => `  ${note}`).join('\n'))
  return parts.join('\n\n')
}

function target(figure: Figure): string {
  if (figure.target === undefined) return ''
  const bound = 'atMost' in figure.target ? `at most ${figure.target.atMost}` : `at least ${figure.target.atLeast}`
  return `target: ${bound} — ${isMet(figure) ? 'met' : 'missed'}`
}

/** Three significant digits, and no exponent: 0.0123, 1.23, 12.3, 123, 1234. */
function number(value: number): string {
  if (!Number.isFinite(value)) return '–'
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)))
  return value.toFixed(Math.min(digits, 4))
}

/** The first column to the left, numbers to the right, the last one as it comes. */
function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const cell = (text: string, column: number) => {
    const width = widths[column] ?? 0
    const toRight = column > 0 && rows.some((row) => isNumber(row[column] ?? ''))
    return toRight ? text.padStart(width) : text.padEnd(width)
  }
  return rows.map((row) => `  ${row.map(cell).join('  ')}`.trimEnd()).join('\n')
}

const isNumber = (text: string): boolean => /^[\d.–-]+$/.test(text)
