import { setImmediate as turn } from 'node:timers/promises'

/** Whether it has come; whoever could have settled it without a timer has had every chance. */
export async function settled(promise: Promise<unknown>): Promise<boolean> {
  let came = false
  void promise.then(() => (came = true))
  for (let turns = 0; turns < 20; turns++) await turn()
  return came
}
