/** Waiting for what announces itself to nobody: a socket file, an empty list. */

import { setTimeout as sleep } from 'node:timers/promises'

const intervalMs = 25

/** Asks until the answer is not undefined, at most `msMax`; then undefined. */
export async function poll<T>(msMax: number, ask: () => Promise<T | undefined>): Promise<T | undefined> {
  const deadlineMs = Date.now() + msMax
  for (;;) {
    const answer = await ask()
    if (answer !== undefined || Date.now() > deadlineMs) return answer
    await sleep(intervalMs)
  }
}
