/** The part of kuasar.admin.v1 that looks into a guest's agent. What a hostile guest answers is text, and a bounded file. */
import { RuntimeError } from '#shared/errors.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import type { AgentLink } from '../link/agent.ts'
import { clean } from '../sandbox/console.ts'
import type { Sandbox } from '../sandbox/sandbox.ts'

type Inspection = Pick<Handlers<ServiceTypesOf<'admin'>>, 'Evaluate' | 'Profile' | 'HeapSnapshot'>

/** `allowed` is the configuration's sandboxer.debug. */
export function createInspection(pick: (id: string) => Sandbox, allowed: boolean): Inspection {
  /** A link of its own, for the agent may take its time. */
  const open = (id: string): AgentLink => {
    if (!allowed) {
      throw new RuntimeError('FAILED_PRECONDITION', 'looking into agents is off: set debug = true in the table [sandboxer] of the configuration and restart the sandboxer; pods run on meanwhile')
    }
    return pick(id).openAgent()
  }

  async function* dump(id: string, ask: (agent: AgentLink) => AsyncIterable<Buffer>): AsyncGenerator<{ readonly data: Buffer }> {
    using agent = open(id)
    for await (const data of ask(agent)) yield { data }
  }

  return {
    async Evaluate({ id, expression }, { signal }) {
      using agent = open(id)
      const { text, threw } = await agent.evaluate(expression, signal)
      return { text: clean(text), threw }
    },
    Profile: ({ id, durationMillis }, { signal }) => dump(id, (agent) => agent.profile(durationMillis, signal)),
    HeapSnapshot: ({ id }, { signal }) => dump(id, (agent) => agent.heapSnapshot(signal)),
  }
}
