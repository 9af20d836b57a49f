/** Turns a VMM's driver into a sandbox backend. */
import { RuntimeError, asRuntimeError, explain } from '#shared/errors.ts'
import type { Processes } from '#shared/os/contract.ts'
import type { AdoptionRecord, LaunchContext, SandboxBackend } from '#host/sandbox/backend.ts'
import { proveAlive } from '#host/sandbox/liveness.ts'
import type { MicrovmConfig, VmPaths, VmmControl, VmmDriver } from './driver.ts'
import { Accelerators } from './kvm.ts'
import { launchVm } from './launch.ts'
import { limitFileSize } from './logs.ts'
import { VHOST_VSOCK, VIRTIOFSD, VIRTIOFSD_ROOTS } from './names.ts'
import { vmPaths } from './paths.ts'
import { probeFiles } from './probe.ts'
import { type HostProcess, adoptProcess } from './process.ts'
import { runningSandbox } from './running.ts'

/** Silence of a VMM on its control socket that is taken for death when its sandbox is adopted: while idle, and while it works. */
const CONTROL_PATIENCE = { quietMs: 5_000, busyMs: 30_000 }

/** Of what is kept for adoption. 1 had no virtiofsd for the roots. */
const ADOPTION_VERSION = 2

export interface MicrovmBackendOptions<C extends MicrovmConfig> {
  readonly kind: string
  readonly driver: VmmDriver<C>
  readonly parseConfig: (raw: unknown, at: string) => C
  /** Notices the death of processes that are no children */
  readonly watch: Processes['watch']
}

export function microvmBackend<C extends MicrovmConfig>(options: MicrovmBackendOptions<C>): SandboxBackend<C> {
  const { kind, driver, parseConfig, watch } = options
  const accelerators = new Accelerators()

  return {
    kind,
    capabilities: { sharing: 'virtiofs', ownKernel: true, portForward: true, blockHotplug: false, snapshot: false },
    parseConfig,

    async probe(config, log) {
      await probeFiles(config)
      const { warning } = await accelerators.choose(config.accel)
      if (warning !== undefined) log.warn(warning, { backend: kind })
    },

    async launch(plan, config, context) {
      const paths = vmPaths(plan.dir)
      const choice = await accelerators.choose(config.accel)
      const vm = await launchVm({ driver, config, plan, paths, accelerator: choice.accelerator }, context)
      const running = runningSandbox({ ...vm, dir: plan.dir, paths, servesRoots: true, adoption: { version: ADOPTION_VERSION }, log: context.log })
      for (const { pid, name } of vm.processes)
        if (name !== VIRTIOFSD && name !== VIRTIOFSD_ROOTS)
          limitFileSize(pid).catch((error: unknown) => context.log.warn(`the log of ${name} is bounded only while the sandboxer runs`, { error }))
      return running
    },

    async adopt(record, _config, context) {
      const paths = vmPaths(record.plan.dir)
      const processes: HostProcess[] = []
      const servesRoots = !isAdoption(record.adoption, 1)
      try {
        for (const name of [driver.name, VIRTIOFSD, ...(servesRoots ? [VIRTIOFSD_ROOTS] : []), VHOST_VSOCK]) processes.push(await adoptOwned(name, record, watch))
        const control = await reconnect(driver, processes.slice(0, 1), paths, context)
        return runningSandbox({ processes, control, dir: record.plan.dir, paths, servesRoots, adoption: record.adoption, log: context.log })
      } catch (error) {
        for (const process of processes) process.detach()
        throw error
      }
    },
  }
}

const isAdoption = (adoption: unknown, version: number): boolean =>
  typeof adoption === 'object' && adoption !== null && 'version' in adoption && adoption.version === version

async function adoptOwned(name: string, { owned, sandboxId }: AdoptionRecord, watch: Processes['watch']): Promise<HostProcess> {
  const process = owned.find((resource) => resource.kind === 'process' && resource.name === name)
  if (process?.kind !== 'process' || process.pid === undefined || process.startTicks === undefined)
    throw new RuntimeError('NOT_FOUND', `sandbox ${sandboxId}: its record has no ${name} that was started`)
  return adoptProcess({ name, pid: process.pid, startTicks: process.startTicks }, watch)
}

/** Errors: UNAVAILABLE when the VMM does not answer or its VM does not run. */
async function reconnect<C extends MicrovmConfig>(driver: VmmDriver<C>, vmm: readonly HostProcess[], paths: VmPaths, context: LaunchContext): Promise<VmmControl> {
  let control: VmmControl | undefined
  let refusal: unknown
  const proof = await proveAlive(
    async (over) => {
      const signal = AbortSignal.any([over, context.signal])
      try {
        control ??= await driver.control(paths.control, signal)
        const status = await control.status(signal)
        if (status !== 'running') throw new RuntimeError('UNAVAILABLE', `the VM is ${status}, not running`)
      } catch (error) {
        // Whatever else it says is an answer too.
        if (over.aborted) throw error
        refusal = error
      }
    },
    { vmmPid: vmm[0]?.pid ?? 0, processes: vmm },
    CONTROL_PATIENCE,
  )
  if (proof.kind === 'alive' && refusal === undefined && control !== undefined) return control
  control?.close()
  context.signal.throwIfAborted()
  if (refusal !== undefined) throw new RuntimeError('UNAVAILABLE', `${driver.name} at ${paths.control}: ${explain(asRuntimeError(refusal))}`, { cause: refusal })
  const why = proof.kind === 'dead' ? proof.reason : `it works but has not answered for ${CONTROL_PATIENCE.busyMs} ms`
  throw new RuntimeError('UNAVAILABLE', `${driver.name} does not answer at ${paths.control}: ${why}`)
}
