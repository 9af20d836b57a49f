import { isDigits } from '#shared/digits.ts'

/** Named moments of the boot, for the start-up waterfall. PID 1's come in the environment as "name:ns,name:ns". */
export interface BootMark {
  readonly name: string
  /** CLOCK_BOOTTIME */
  readonly bootTimeNanos: bigint
}

export const BOOT_MARKS_ENV = 'KUASAR_BOOT_MARKS'

/** More marks than a boot has; the environment is not ours. */
const MARKS_MAX = 64
const NAME_LENGTH_MAX = 64

export class BootMarks {
  readonly #marks: BootMark[]
  readonly #now: () => bigint

  constructor(env: NodeJS.ProcessEnv, now: () => bigint) {
    this.#marks = parseBootMarks(env[BOOT_MARKS_ENV] ?? '')
    this.#now = now
  }

  mark(name: string): void {
    if (this.#marks.length < MARKS_MAX) this.#marks.push({ name, bootTimeNanos: this.#now() })
  }

  all(): readonly BootMark[] {
    return this.#marks
  }
}

/** What is malformed is left out. */
export function parseBootMarks(text: string): BootMark[] {
  return text.split(',').slice(0, MARKS_MAX).flatMap((part) => {
    const colon = part.indexOf(':')
    const name = part.slice(0, Math.max(0, colon))
    const nanos = part.slice(colon + 1)
    return name === '' || name.length > NAME_LENGTH_MAX || !isDigits(nanos, 20) ? [] : [{ name, bootTimeNanos: BigInt(nanos) }]
  })
}
