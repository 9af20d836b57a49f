/** The fake backend's configuration and the failures a pod may ask of it. */
import { z } from 'zod'
import { RuntimeError } from '#shared/errors.ts'

export const schema = z.strictObject({
  /** A process per sandbox, which outlives the sandboxer as a VM does. Otherwise guests live in the sandboxer itself. */
  processes: z.boolean().default(false),
})

export type FakeConfig = z.output<typeof schema>

export const FAIL_ANNOTATION = 'io.kuasar.fake.fail'

/**
 * launch      the launch fails
 * hello       the guest never says Hello
 * ready       the guest says Hello and never Ready
 * exit        the guest ends after its Hello
 * shutdown    the guest does not answer Shutdown
 */
export const failures = ['launch', 'hello', 'ready', 'exit', 'shutdown'] as const
export type Failure = (typeof failures)[number]

/** Errors: INVALID_ARGUMENT for an unknown failure. */
export function failureOf(annotations: Readonly<Record<string, string>>): Failure | undefined {
  const asked = annotations[FAIL_ANNOTATION]
  if (asked === undefined) return undefined
  const failure = failures.find((known) => known === asked)
  if (failure === undefined)
    throw new RuntimeError('INVALID_ARGUMENT', `annotation ${FAIL_ANNOTATION}=${JSON.stringify(asked)}: expected one of ${failures.join(', ')}`)
  return failure
}
