/**
 * A backend without isolation or machines, for tests of everything above it: the same protocols, the same ledger, the
 * same failures, in a millisecond. Nothing runs in its containers.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { Processes } from '#shared/os/contract.ts'
import type { Rpc } from '#shared/rpc/services.ts'
import { parseTable } from '../../config/table.ts'
import type { LaunchPlan, RunningSandbox, SandboxBackend, SandboxExit } from '../../sandbox/backend.ts'
import { consoleTail } from '../../sandbox/console.ts'
import { type FakeConfig, failureOf, schema } from './config.ts'
import { FakeGuest } from './guest.ts'
import { dialUnix, guestPaths } from './paths.ts'
import { adoptProcess, launchProcess } from './process.ts'

export interface FakeDependencies {
  readonly rpc: Rpc
  readonly processes: Processes
}

/** @param sharing 'virtiofs' has the host make a share for containers as for a VM, which takes root; nobody looks into it */
export function createFakeBackend({ rpc, processes }: FakeDependencies, sharing: 'none' | 'virtiofs'): SandboxBackend<FakeConfig> {
  return {
    kind: sharing === 'none' ? 'fake' : 'fake-shared',
    capabilities: { sharing, ownKernel: false, portForward: false, blockHotplug: false, snapshot: false },
    parseConfig: (raw, at) => parseTable(schema, raw, at),
    probe: async (_, log) => log.warn('the fake backend isolates nothing and runs nothing: it is for tests'),
    async launch(plan, config, context) {
      const failure = failureOf(plan.annotations)
      if (failure === 'launch') throw new RuntimeError('ABORTED', 'the fake backend fails the launch, as its pod asked')
      if (config.processes) return launchProcess(plan, failure, context, processes)
      return launchHere(rpc, plan, failure)
    },
    async adopt(record, config, context) {
      if (config.processes) return adoptProcess(record, context, processes)
      throw new RuntimeError('NOT_FOUND', 'a fake guest without a process of its own ends with the sandboxer')
    },
  }
}

function launchHere(rpc: Rpc, plan: LaunchPlan, failure: ReturnType<typeof failureOf>): RunningSandbox {
  const { taskSocket, console } = guestPaths(plan.dir)
  const { promise: exited, resolve } = Promise.withResolvers<SandboxExit>()
  const exit = (reason: string, expected: boolean) => resolve({ reason, of: 'guest', atMs: Date.now(), expected })
  const guest = new FakeGuest({ rpc, linkSocket: plan.linkSocket, taskSocket, console, failure, onExit: (reason) => exit(reason, false) })
  guest.boot().catch((error: unknown) => exit(`the fake guest did not boot: ${String(error)}`, false))
  return {
    taskAddress: `ttrpc+unix://${taskSocket}`,
    vmmPid: 0,
    servesRoots: false,
    adoption: {},
    exited,
    dial: (_, signal) => dialUnix(taskSocket, signal),
    consoleTail: (linesMax) => consoleTail(console, linesMax),
    async kill() {
      guest.close()
      exit('killed', true)
    },
    detach() {},
  }
}
