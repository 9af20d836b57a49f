/** One at a time per key, in the order asked; different keys never wait for each other. */
import { RuntimeError } from '#shared/errors.ts'

/** A guest has no reason to ask for one container more often before it has heard an answer. */
export const WAITING_MAX = 16

export interface Turns {
  /** Errors: RESOURCE_EXHAUSTED when WAITING_MAX are waiting for this key. */
  take<T>(key: string, work: () => Promise<T>): Promise<T>
}

interface Line {
  readonly tail: Promise<unknown>
  readonly length: number
}

export function createTurns(): Turns {
  const lines = new Map<string, Line>()
  return {
    async take(key, work) {
      const { tail, length } = lines.get(key) ?? { tail: Promise.resolve(), length: 0 }
      if (length > WAITING_MAX) throw new RuntimeError('RESOURCE_EXHAUSTED', `${length} calls wait for ${key} already; try again`)
      const turn = tail.then(work, work)
      lines.set(key, { tail: turn, length: length + 1 })
      try {
        return await turn
      } finally {
        const line = lines.get(key)
        if (line !== undefined && line.length > 1) lines.set(key, { tail: line.tail, length: line.length - 1 })
        else lines.delete(key)
      }
    },
  }
}
