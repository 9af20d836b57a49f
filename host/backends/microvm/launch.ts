/**
 * Starts a microVM: its helpers at once, then the VMM, which connects to all. Every process is in the ledger before it
 * exists.
 */
import { RuntimeError, asRuntimeError, explain } from '#shared/errors.ts'
import type { LaunchContext, LaunchPlan } from '#host/sandbox/backend.ts'
import type { OwnedProcess } from '#host/sandbox/ownership.ts'
import type { Command, MicrovmConfig, VmPaths, VmmControl, VmmDriver } from './driver.ts'
import type { Accelerator } from './kvm.ts'
import { untilListening } from './listening.ts'
import { VHOST_VSOCK, VIRTIOFSD, VIRTIOFSD_ROOTS } from './names.ts'
import { logFile } from './paths.ts'
import { type HostProcess, startProcess } from './process.ts'
import type { ProcessSetting } from './process-argv.ts'
import { untilReady } from './readiness.ts'
import { vhostVsockCommand } from './vhost-vsock.ts'
import { type CachePolicy, virtiofsdCommand } from './virtiofsd.ts'

export interface LaunchedVm {
  /** The VMM first */
  readonly processes: readonly HostProcess[]
  readonly control: VmmControl
}

export interface LaunchOptions<C extends MicrovmConfig> {
  readonly driver: VmmDriver<C>
  readonly config: C
  readonly plan: LaunchPlan
  readonly paths: VmPaths
  readonly accelerator: Accelerator
}

/** Errors: one naming the step; whatever was started is gone by then. */
export async function launchVm<C extends MicrovmConfig>(options: LaunchOptions<C>, context: LaunchContext): Promise<LaunchedVm> {
  const { driver, config, plan, paths } = options
  const { ownership, signal } = context
  const started: HostProcess[] = []
  let control: VmmControl | undefined
  const start = (name: string, command: Command, may: Pick<ProcessSetting, 'netnsPath' | 'privileged'>): HostProcess => {
    const { sandboxId, cgroupProcs, dir } = plan
    const process = startProcess({ sandboxId, name, command, cgroupProcs, ...may, dir, logFile: logFile(dir, name) })
    started.unshift(process)
    return process
  }
  const confined = { netnsPath: plan.netnsPath, privileged: false }
  const ready = <T>(process: HostProcess, task: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    untilReady({ process, logFile: logFile(plan.dir, process.name), signal }, task)

  const virtiofsd = (name: string, socket: string, cache: CachePolicy) =>
    step(name, context, async () => {
      const command = virtiofsdCommand({ path: config.virtiofsd, sharedDir: plan.sharedDir, socket, cache })
      // It confines itself, and has files of every owner to serve. Its network namespace is emptier than the pod's; its
      // socket belongs to the one it came from.
      await ready(start(name, command, { netnsPath: undefined, privileged: true }), (signal) => untilListening(socket, 'self', signal))
    })
  const vhostVsock = () =>
    step(VHOST_VSOCK, context, async () => {
      const command = vhostVsockCommand({ path: config.vhost_device_vsock, socket: paths.vhostVsock, uds: paths.vsock })
      const process = start(VHOST_VSOCK, command, confined)
      await ready(process, (signal) => untilListening(paths.vhostVsock, process.pid, signal))
    })
  const vmm = () =>
    step(driver.name, context, async () => {
      const { sandboxId, vcpus, memoryMiB, nics, logLevel } = plan
      const command = driver.command({ sandboxId, vcpus, memoryMiB, nics, logLevel, accelerator: options.accelerator, paths }, config)
      const process = start(driver.name, command, confined)
      control = await ready(process, async (signal) => {
        await untilListening(paths.control, process.pid, signal)
        return driver.control(paths.control, signal)
      })
    })

  const intents = [VIRTIOFSD, VIRTIOFSD_ROOTS, VHOST_VSOCK, driver.name].map((name): OwnedProcess => ({ kind: 'process', name }))
  try {
    await ownership.acquireAll(intents, async () => {
      try {
        // Each starts its process before it first waits, so a failure of one finds all to kill.
        await Promise.all([virtiofsd(VIRTIOFSD, paths.virtiofs, 'auto'), virtiofsd(VIRTIOFSD_ROOTS, paths.roots, 'always'), vhostVsock()])
        await vmm()
      } catch (error) {
        await Promise.allSettled(started.map((process) => process.kill()))
        throw error
      }
      return started.toReversed().map(({ name, pid, startTicks }): OwnedProcess => ({ kind: 'process', name, pid, startTicks }))
    })
  } catch (error) {
    control?.close()
    for (const process of started) process.detach()
    throw error
  }
  if (control === undefined) throw new RuntimeError('INTERNAL', `${driver.name} was started without a control connection`)
  return { processes: started, control }
}

async function step(name: string, { mark, signal }: LaunchContext, task: () => Promise<void>): Promise<void> {
  const startMs = nowMs()
  try {
    signal.throwIfAborted()
    await task()
  } catch (error) {
    throw new RuntimeError(asRuntimeError(error).code, `start ${name}: ${explain(error)}`, { cause: error })
  }
  mark(name, startMs, nowMs())
}

const nowMs = (): number => performance.timeOrigin + performance.now()
