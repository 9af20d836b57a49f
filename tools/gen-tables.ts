/** The text of shared/rpc/gen/messages.ts and services.ts. */
import type { PackageDefinition } from '@grpc/proto-loader'
import { isService, kindOf } from '../shared/rpc/definition.ts'

const path = (name: string) => `./${name.replaceAll('.', '/')}.ts`
const baseName = (name: string) => name.slice(name.lastIndexOf('.') + 1)
const alias = (name: string) => name.replaceAll('.', '_')

/** Full message name → what a sender gives and a receiver gets. */
export function messageTable(names: readonly string[]): string {
  const imports = names.map((name) => {
    const base = baseName(name)
    return `import type { ${base} as ${alias(name)}, ${base}__Output as ${alias(name)}__Output } from '${path(name)}'`
  })
  const rows = names.map((name) => `  '${name}': { readonly in: ${alias(name)}; readonly out: ${alias(name)}__Output }`)
  return `${imports.join('\n')}\n\nexport interface Messages {\n${rows.join('\n')}\n}\n`
}

/** Full service name → its definition's type, its handlers' type, and as a value the kind of each call. */
export function serviceTable(names: readonly string[], definition: PackageDefinition): string {
  const imports = names.map((name) => {
    const [base, as] = [baseName(name), alias(name)]
    return `import type { ${base}Definition as ${as}, ${base}Handlers as ${as}_Handlers } from '${path(name)}'`
  })
  const rows = names.map((name) => `  '${name}': { readonly methods: ${alias(name)}; readonly handlers: ${alias(name)}_Handlers }`)
  const kinds = names.map((name) => {
    const service = definition[name]
    const methods = isService(service) ? Object.entries(service) : []
    return `  '${name}': {\n${methods.map(([key, method]) => `    ${key}: '${kindOf(method)}',\n`).join('')}  },`
  })
  return [
    ...imports,
    '',
    `export interface Definitions {\n${rows.join('\n')}\n}`,
    '',
    `export const callKinds = {\n${kinds.join('\n')}\n} as const`,
    '',
  ].join('\n')
}
