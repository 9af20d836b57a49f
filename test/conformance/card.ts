/** What scorecards are written with: tables, and the reasons below them. */

/** Reasons, numbered in the order they come up, each once. */
export class Notes {
  readonly #reasons: string[] = []

  reference(reason: string): string {
    const line = stable(reason)
    const known = this.#reasons.indexOf(line)
    const index = known >= 0 ? known : this.#reasons.push(line) - 1
    return ` [${index + 1}]`
  }

  /** The list of them; empty when there is none. */
  text(): string {
    return this.#reasons.map((reason, index) => `${index + 1}. ${reason}`).join('\n')
  }
}

const reasonCharsMax = 300

/** One line, without what differs from run to run: ids, times, addresses. */
function stable(reason: string): string {
  const line = reason
    .replaceAll(/\s+/g, ' ')
    .replaceAll(/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g, 'UUID')
    .replaceAll(/\b[0-9a-f]{64}\b/g, 'ID')
    // Of the pods' subnet in test/conformance/run.ts.
    .replaceAll(/\b10\.89\.\d+\.\d+\b/g, 'POD')
    .replaceAll(/\b0x[0-9a-f]+\b/g, '0x…')
    .replaceAll(/\b\d{4}-\d\d-\d\dT[\d:.]+Z?/g, 'TIME')
    .trim()
  return line.length > reasonCharsMax ? `${line.slice(0, reasonCharsMax)}…` : line
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map(tableLine).join('\n')
}

function tableLine(cells: readonly string[]): string {
  return `| ${cells.map((text) => text.replaceAll('|', String.raw`\|`)).join(' | ')} |`
}
