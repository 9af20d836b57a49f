/** kuasar.agent.v1.Agent: what the sandboxer asks of its guest. */
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Handlers } from '#shared/ttrpc/method.ts'
import { containerId } from '#shared/ids.ts'
import type { Log } from '#shared/log.ts'
import type { Os } from '#shared/os/contract.ts'
import type { Containers } from '../container/containers.ts'
import { hasExited, statusOf } from '../container/state.ts'
import { evaluate, heapSnapshot, type Names, profile } from '../debug/inspector.ts'
import type { HostLink } from '../link/link.ts'
import type { Network } from '../network/apply.ts'
import type { GuestRpc } from '../rpc.ts'
import { Cgroup } from '../runtime/cgroup.ts'
import { AGENT_VERSION } from '../version.ts'
import { networkOf } from './host.ts'
import { packMetrics } from './metrics.ts'

/** Longest grace a shutdown takes, whatever is asked. */
const GRACE_MS_MAX = 10 * 60_000

/** Between the answer to Shutdown and the power going: the answer must be on its way. */
const POWER_OFF_MS = 50

/** What the last output and the exit codes get to reach containerd after the last container was ended. */
const DRAIN_MS_MAX = 1000

export interface AgentContext {
  readonly containers: Containers
  readonly network: Network
  readonly link: HostLink
  readonly rpc: GuestRpc
  readonly os: Os
  readonly log: Log
  /** Directory of the pod's cgroup. */
  readonly podCgroup: string
  /** For whoever looks into the agent. */
  readonly names: Names
}

export function createAgentService(context: AgentContext): Handlers<ServiceTypesOf<'agent'>> {
  const { containers, network, link, rpc, os, log, podCgroup, names } = context
  return {
    Ping({ instance }) {
      link.calledBy(instance)
      return { agentVersion: AGENT_VERSION, boottimeNanos: String(os.processes.bootTimeNanos()) }
    },
    Tasks() {
      const tasks = containers.all().map(({ id, init, execs }) => {
        const { state } = init
        return { containerId: id, pid: state.pid, status: statusOf[state.kind], execCount: execs.size }
      })
      return { tasks }
    },
    async Purge(request) {
      await containers.purge(containerId(request.containerId))
      return {}
    },
    async Stats() {
      return { metrics: await packMetrics(rpc.any, new Cgroup(podCgroup)), realtimeNanos: String(realtimeNanos()) }
    },
    SyncClock({ instance, realtimeNanos: hosts, stepNanos }) {
      link.calledBy(instance)
      const offset = realtimeNanos() - BigInt(hosts)
      if (stepNanos !== '0') os.processes.setRealtime(realtimeNanos() + BigInt(stepNanos))
      return { offsetNanos: String(offset) }
    },
    async UpdateNetwork({ network: wanted }) {
      await network.update(networkOf(wanted))
      return {}
    },
    async Shutdown({ graceMillis }) {
      const graceMs = Math.min(Number(graceMillis), GRACE_MS_MAX)
      log.info('shutting down', { graceMs })
      await endAll(containers, graceMs)
      setTimeout(() => os.processes.powerOff(), POWER_OFF_MS)
      return {}
    },
    Evaluate({ expression }, { signal }) {
      log.info('an expression is evaluated', { length: expression.length })
      return evaluate(expression, names, signal)
    },
    Profile({ durationMillis }, { signal }) {
      log.info('a profile is taken', { ms: durationMillis })
      return dumps(profile(durationMillis, signal))
    },
    HeapSnapshot() {
      log.info('a heap snapshot is taken')
      return dumps(heapSnapshot())
    },
  }
}

async function* dumps(pieces: AsyncIterable<Buffer>): AsyncGenerator<{ readonly data: Buffer }> {
  for await (const data of pieces) yield { data }
}

/** TERM, grace, KILL. A container that ends sooner is not waited for. */
async function endAll(containers: Containers, graceMs: number): Promise<void> {
  const living = containers.all().filter(({ init }) => !hasExited(init.state))
  if (graceMs > 0) {
    // Within the grace as well: a container's turn may be taken by a start that hangs.
    const ended = living.map(async (container) => {
      await containers.kill(container, '', SIGTERM, false).catch(() => {})
      await container.init.exited
    })
    await settledWithin(graceMs, ended)
  }
  for (const { cgroup } of living) cgroup.kill()
  await settledWithin(DRAIN_MS_MAX, living.map(({ init }) => init.stopped))
}

/** Resolves when all of them have, or after `limitMs`. */
async function settledWithin(limitMs: number, promises: readonly Promise<unknown>[]): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, limitMs)
  await Promise.race([Promise.all(promises), promise])
  clearTimeout(timer)
}

const SIGTERM = 15

function realtimeNanos(): bigint {
  return BigInt(Date.now()) * 1_000_000n
}
