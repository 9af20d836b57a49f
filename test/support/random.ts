/** A seeded generator of 0 … 2³²−1 (Marsaglia's xorshift32): the same numbers for the same seed, on every machine. */
export function random(seed: number): () => number {
  let state = seed | 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}
