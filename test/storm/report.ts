/** What happens, a line each, with its time; and the faults among it. */
import { explain } from '#shared/errors.ts'

/** No call may take longer, whatever the storm. */
const ANSWER_MS_MAX = 60_000
const TEXT_LENGTH_MAX = 300

/** containerd's own: it hangs up on a container's agent when a Delete is answered, also while a Kill of another caller waits. */
const CONTAINERDS_RACE = /failed to kill container .*ttrpc: closed/

export class Report {
  readonly faults: string[] = []
  /** While faults are about, a call may fail. */
  stormy = false
  readonly #startMs = performance.now()

  say(text: string): void {
    console.log(`${((performance.now() - this.#startMs) / 1000).toFixed(1).padStart(6)} ${text}`)
  }

  fault(text: string): void {
    this.faults.push(text)
    this.say(`FAULT ${text}`)
  }

  /** Runs a call to its end. It may not hang; in good weather it must succeed when `must`. Answers whether it did. */
  async attempt(what: string, must: boolean, call: () => Promise<void>): Promise<boolean> {
    const { promise: late, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new Late(`no answer within ${ANSWER_MS_MAX} ms`)), ANSWER_MS_MAX)
    try {
      await Promise.race([call(), late])
      this.say(what)
      return true
    } catch (error) {
      const text = `${what}: ${explain(error).split('\n', 1)[0]?.slice(0, TEXT_LENGTH_MAX)}`
      if (error instanceof Late || (must && !this.stormy && !CONTAINERDS_RACE.test(text))) this.fault(text)
      else this.say(text)
      return false
    } finally {
      clearTimeout(timer)
    }
  }
}

class Late extends Error {}
