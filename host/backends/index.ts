/** From the tables of the configuration to backends. */
import { RuntimeError } from '#shared/errors.ts'
import type { BackendDependencies, BindBackend, BoundBackend } from '../sandbox/backends.ts'
import * as exported from './kinds.ts'

const kinds: ReadonlyMap<string, BindBackend> = new Map(Object.entries(exported))

/** From `[backends.*]`: sandboxer name → backend. Errors: INVALID_ARGUMENT for an unknown kind and for bad keys. */
export function bindBackends(
  tables: Readonly<Record<string, { readonly kind: string; readonly warm?: number } & Readonly<Record<string, unknown>>>>,
  file: string,
  dependencies: BackendDependencies,
): ReadonlyMap<string, BoundBackend> {
  return new Map(
    Object.entries(tables).map(([name, { kind, warm: _warm, ...table }]) => {
      const at = `${file}: backends.${name}`
      const bind = kinds.get(kind)
      if (bind === undefined)
        throw new RuntimeError('INVALID_ARGUMENT', `${at}.kind: ${JSON.stringify(kind)} is not accepted: expected one of ${[...kinds.keys()].join(', ')}`)
      return [name, bind(dependencies, table, at)]
    }),
  )
}
