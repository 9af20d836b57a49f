/** Every backend there is: a folder and a line. */
import { RuntimeError } from '#shared/errors.ts'
import type { Os } from '#shared/os/contract.ts'
import type { Rpc } from '#shared/rpc/services.ts'
import { bindBackend, type BoundBackend } from '../sandbox/backends.ts'
import { createFakeBackend } from './fake/backend.ts'
import { qemuBackend } from './qemu/index.ts'

export interface BackendDependencies {
  readonly rpc: Rpc
  readonly os: Os
}

/** A table of the configuration without what is the same for every backend, and where it stands. */
type Bind = (dependencies: BackendDependencies, table: unknown, at: string) => BoundBackend

const kinds: Readonly<Record<string, Bind>> = {
  fake: ({ rpc, os }, table, at) => bindBackend(createFakeBackend({ rpc, processes: os.processes }, 'none'), table, at),
  'fake-shared': ({ rpc, os }, table, at) => bindBackend(createFakeBackend({ rpc, processes: os.processes }, 'virtiofs'), table, at),
  qemu: ({ os }, table, at) => bindBackend(qemuBackend(os), table, at),
}

/** From `[backends.*]`: sandboxer name → backend. Errors: INVALID_ARGUMENT for an unknown kind and for bad keys. */
export function bindBackends(
  tables: Readonly<Record<string, { readonly kind: string; readonly warm?: number } & Readonly<Record<string, unknown>>>>,
  file: string,
  dependencies: BackendDependencies,
): ReadonlyMap<string, BoundBackend> {
  return new Map(
    Object.entries(tables).map(([name, { kind, warm: _warm, ...table }]) => {
      const at = `${file}: backends.${name}`
      const bind = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined
      if (bind === undefined)
        throw new RuntimeError('INVALID_ARGUMENT', `${at}.kind: ${JSON.stringify(kind)} is not accepted: expected one of ${Object.keys(kinds).join(', ')}`)
      return [name, bind(dependencies, table, at)]
    }),
  )
}
