/** Fake guests as processes of their own: found, adopted and ended exactly as VMMs are. */
import { spawn } from 'node:child_process'
import { openSync, closeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { RuntimeError } from '#shared/errors.ts'
import type { Processes } from '#shared/os/contract.ts'
import { isErrno } from '#shared/os/error.ts'
import type { AdoptionRecord, LaunchContext, LaunchPlan, RunningSandbox, SandboxExit } from '../../sandbox/backend.ts'
import { consoleTail } from '../../sandbox/console.ts'
import type { OwnedProcess } from '../../sandbox/ownership.ts'
import { MARKER, endProcess, isAlive, processStat } from '../../sandbox/processes.ts'
import type { Failure } from './config.ts'
import { dialUnix, guestPaths } from './paths.ts'

const NAME = 'guest'
const MAIN = fileURLToPath(new URL('./guest-main.ts', import.meta.url))
/** The shell puts itself into the cgroups and then becomes the guest, so that no moment of its life is outside them. */
const ENTER = 'for procs in $KUASAR_CGROUPS; do echo $$ > "$procs" || exit 1; done; exec "$@"'

export async function launchProcess(plan: LaunchPlan, failure: Failure | undefined, { ownership }: LaunchContext, processes: Processes): Promise<RunningSandbox> {
  const { pid, startTicks } = await ownership.acquire<OwnedProcess>({ kind: 'process', name: NAME }, async () => {
    const { taskSocket, console } = guestPaths(plan.dir)
    const output = openSync(console, 'a', 0o600)
    try {
      const child = spawn('/bin/sh', ['-c', ENTER, 'sh', process.execPath, MAIN, plan.linkSocket, taskSocket, console, failure ?? ''], {
        detached: true,
        stdio: ['ignore', output, output],
        env: { PATH: process.env['PATH'], [MARKER]: `${plan.sandboxId}/${NAME}`, KUASAR_CGROUPS: plan.cgroupProcs.join(' ') },
      })
      child.unref()
      const stat = child.pid === undefined ? undefined : await processStat(child.pid)
      if (stat === undefined) throw new RuntimeError('INTERNAL', 'the fake guest did not start')
      return { kind: 'process', name: NAME, pid: stat.pid, startTicks: stat.startTicks }
    } finally {
      closeSync(output)
    }
  })
  if (pid === undefined || startTicks === undefined) throw new RuntimeError('INTERNAL', 'the fake guest has no pid')
  return follow(plan, pid, startTicks, processes)
}

export async function adoptProcess({ plan, owned }: AdoptionRecord, _: LaunchContext, processes: Processes): Promise<RunningSandbox> {
  for (const resource of owned)
    if (resource.kind === 'process' && resource.name === NAME && resource.pid !== undefined && resource.startTicks !== undefined)
      if (await isAlive(resource.pid, resource.startTicks)) return follow(plan, resource.pid, resource.startTicks, processes)
  throw new RuntimeError('NOT_FOUND', 'the fake guest is dead')
}

function follow(plan: Pick<LaunchPlan, 'dir'>, pid: number, startTicks: string, processes: Processes): RunningSandbox {
  const { taskSocket, console } = guestPaths(plan.dir)
  const { promise: exited, resolve } = Promise.withResolvers<SandboxExit>()
  let asked = false
  const onExit = () => resolve({ reason: 'the fake guest exited', of: 'vmm', atMs: Date.now(), expected: asked })
  const watch = watching(processes, pid, onExit)
  return {
    taskAddress: `ttrpc+unix://${taskSocket}`,
    vmmPid: pid,
    servesRoots: false,
    adoption: {},
    exited,
    dial: (_, signal) => dialUnix(taskSocket, signal),
    consoleTail: (linesMax) => consoleTail(console, linesMax),
    async kill() {
      asked = true
      await endProcess(pid, startTicks)
    },
    detach: () => watch[Symbol.dispose](),
  }
}

function watching(processes: Processes, pid: number, onExit: () => void): Disposable {
  try {
    return processes.watch(pid, onExit)
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error
    onExit()
    return { [Symbol.dispose]() {} }
  }
}
