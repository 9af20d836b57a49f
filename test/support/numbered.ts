/** Output of which every line can be told from every other, and what became of it on its way. */

/** All lines are of this length, so a cut one is known by its own. */
const digits = 7

/** A shell command that prints the numbers from 1 to `last`, a line each, as fast as it can. */
export const printNumbered = (last: number): string => `seq -w ${'1'.padStart(digits, '0')} ${last}`

export interface Delivery {
  /** Numbers from 1 to the last that never came */
  readonly lost: readonly number[]
  /** Entries that are neither a number nor the end of one, and numbers that came before their turn */
  readonly foreign: readonly string[]
  /** Ends of a number: where a reader that came back went on */
  readonly fragments: number
  /** Numbers that came more than once */
  readonly repeated: number
}

/** Compares the lines of a log with the numbers from 1 to `last`. */
export function delivery(lines: readonly string[], last: number): Delivery {
  const seen = new Set<number>()
  const foreign: string[] = []
  const fragments = lines.filter((line) => line.length < digits && /^\d*$/.test(line)).length
  let repeated = 0
  let latest = 0
  for (const line of lines) {
    if (line.length < digits && /^\d*$/.test(line)) continue
    const number = line.length === digits ? Number(line) : Number.NaN
    if (Number.isNaN(number)) foreign.push(line)
    // A reader that comes back may be sent what it had already, from there on in order again.
    else if (number > latest + 1) foreign.push(`${line} after ${latest}`)
    else if (seen.has(number)) repeated++
    seen.add(number)
    latest = number
  }
  const lost = Array.from({ length: last }, (_, index) => index + 1).filter((number) => !seen.has(number))
  return { lost, foreign, fragments, repeated }
}
