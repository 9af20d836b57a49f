/** Lets so many through at a time; the others wait in the order they came. */
export class Gate {
  readonly #width: number
  #inside = 0
  readonly #waiting: (() => void)[] = []

  constructor(width: number) {
    this.#width = width
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#inside >= this.#width) await new Promise<void>((admit) => void this.#waiting.push(admit))
    else this.#inside++
    try {
      return await task()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#inside--
      else next()
    }
  }
}
