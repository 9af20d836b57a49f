import { mock } from 'node:test'

/** The timers of what runs meanwhile are the test's, and move when it says so. */
export function ownTimers(): Disposable {
  mock.timers.enable({ apis: ['setTimeout'] })
  return { [Symbol.dispose]: () => mock.timers.reset() }
}
