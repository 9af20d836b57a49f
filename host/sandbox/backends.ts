/** A backend and its configuration tied together, so that nobody else sees the type of either. */
import type { Log } from '#shared/log.ts'
import type { Os } from '#shared/os/contract.ts'
import type { Rpc } from '#shared/rpc/services.ts'
import type { AdoptionRecord, Capabilities, LaunchContext, LaunchPlan, RunningSandbox, SandboxBackend } from './backend.ts'

export interface BoundBackend {
  readonly kind: string
  readonly capabilities: Capabilities
  probe(log: Log): Promise<void>
  launch(plan: LaunchPlan, context: LaunchContext): Promise<RunningSandbox>
  adopt(record: AdoptionRecord, context: LaunchContext): Promise<RunningSandbox>
}

export interface BackendDependencies {
  readonly rpc: Rpc
  readonly os: Os
}

/** What a backend's folder exports. `table`: without what is the same for every backend; `at`: where it stands. Errors as `bindBackend`. */
export type BindBackend = (dependencies: BackendDependencies, table: unknown, at: string) => BoundBackend

/** Checks the backend's table of the configuration. Errors: INVALID_ARGUMENT naming key, value and what was expected. */
export function bindBackend<C>(backend: SandboxBackend<C>, raw: unknown, at: string): BoundBackend {
  const config = backend.parseConfig(raw, at)
  return {
    kind: backend.kind,
    capabilities: backend.capabilities,
    probe: (log) => backend.probe(config, log),
    launch: (plan, context) => backend.launch(plan, config, context),
    adopt: (record, context) => backend.adopt(record, config, context),
  }
}
