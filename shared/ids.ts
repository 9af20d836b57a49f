/** Branded identifiers: parsed once at the edge, trusted afterwards. */
import { RuntimeError } from './errors.ts'

export type SandboxId = string & { readonly __brand: 'SandboxId' }
export type ContainerId = string & { readonly __brand: 'ContainerId' }
export type ExecId = string & { readonly __brand: 'ExecId' }

/** Longest identifier containerd accepts (its `identifiers` package). */
export const ID_LENGTH_MAX = 76

/** containerd's identifier grammar: alphanumerics, joined by single `-`, `.` or `_`. Never `..`, never a slash. */
const grammar = /^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$/

function isIdentifier(text: string): boolean {
  return text.length > 0 && text.length <= ID_LENGTH_MAX && grammar.test(text)
}

function parse<Id extends string>(kind: string, text: string, is: (text: string) => text is Id): Id {
  if (is(text)) return text
  const shown = JSON.stringify(text.length > ID_LENGTH_MAX ? `${text.slice(0, ID_LENGTH_MAX)}…` : text)
  throw new RuntimeError(
    'INVALID_ARGUMENT',
    `${kind} ${shown} is not an identifier: expected 1 to ${ID_LENGTH_MAX} characters of A-Z a-z 0-9, joined by single . _ or -`,
  )
}

const isSandboxId = (text: string): text is SandboxId => isIdentifier(text)
const isContainerId = (text: string): text is ContainerId => isIdentifier(text)
const isExecId = (text: string): text is ExecId => isIdentifier(text)

/** Errors of all three: INVALID_ARGUMENT. */
export const sandboxId = (text: string): SandboxId => parse('sandbox id', text, isSandboxId)
export const containerId = (text: string): ContainerId => parse('container id', text, isContainerId)
export const execId = (text: string): ExecId => parse('exec id', text, isExecId)
