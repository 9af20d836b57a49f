/** Choices of a seed: the same in every run, though what they meet is not. */
import { random } from '#test/support/random.ts'

export class Dice {
  readonly #next: () => number

  constructor(seed: number) {
    // Neighbouring seeds of a xorshift begin alike.
    this.#next = random(Math.imul(seed, 0x9e3779b1))
    for (let i = 0; i < 8; i++) this.#next()
  }

  /** 0 … n - 1 */
  below(n: number): number {
    return this.#next() % n
  }

  oneIn(n: number): boolean {
    return this.below(n) === 0
  }

  pick<T>(list: readonly T[]): T | undefined {
    return list[this.below(Math.max(1, list.length))]
  }
}
