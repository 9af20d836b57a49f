/** A process that was started is ready, or there is one error that says why it never will be. */
import { setTimeout as sleep } from 'node:timers/promises'
import { RuntimeError } from '#shared/errors.ts'
import { consoleTail } from '#host/sandbox/console.ts'
import { type HostProcess, describeExit } from './process.ts'

/** From fork to ready, in ms. Usually 100 at most; a machine overloaded with starting pods takes longer. */
const READY_MS_MAX = 30_000
/** A process that cannot go on drops its connections some time before it has ended, in ms. */
const LAST_WORDS_MS = 500
/** Lines of its log in the error */
const LOG_LINES = 5

export interface Starting {
  readonly process: HostProcess
  readonly logFile: string
  readonly signal: AbortSignal
}

/**
 * Runs `task`, which finds out whether the process is ready; its signal ends when the wait does.
 * Errors: ABORTED with the end of its log when the process dies, whatever `task` made of that; DEADLINE_EXCEEDED; the
 * signal's reason; `task`'s own.
 */
export async function untilReady<T>({ process, logFile, signal }: Starting, task: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const ending = new AbortController()
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    reject(new RuntimeError('DEADLINE_EXCEEDED', `${process.name} is not ready after ${READY_MS_MAX} ms`))
  }, READY_MS_MAX)
  const ready = task(AbortSignal.any([signal, ending.signal]))
  const died = process.exited.then(() => {
    throw new Error('died')
  })
  for (const promise of [ready, died]) promise.catch(() => {})
  try {
    return await Promise.race([ready, died, late])
  } catch (error) {
    signal.throwIfAborted()
    throw (await lastWords(process, logFile)) ?? error
  } finally {
    ending.abort()
    clearTimeout(timer)
  }
}

/** Undefined when the process lives on. */
async function lastWords(process: HostProcess, logFile: string): Promise<RuntimeError | undefined> {
  const exit = await Promise.race([process.exited, sleep(LAST_WORDS_MS, undefined)])
  if (exit === undefined) return undefined
  const lines = await consoleTail(logFile, LOG_LINES)
  return new RuntimeError('ABORTED', [`${process.name} ${describeExit(exit)} before it was ready`, ...lines].join(': '))
}
