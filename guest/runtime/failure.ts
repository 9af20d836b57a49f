/** What crun says when it fails, as an error that names the case. crun writes one JSON object per line to its log. */
import { RuntimeError, type StatusName } from '#shared/errors.ts'

/** How a run of crun ended, and what its log holds. */
export interface Failure {
  /** "create container", "exec in container", … */
  readonly operation: string
  readonly containerId: string
  /** The command the user asked for, where there is one. */
  readonly command: string | undefined
  /** Undefined when a signal ended it. */
  readonly exitCode: number | undefined
  readonly signal: string | undefined
  readonly log: string
}

/** Longest text of crun's that an error repeats. */
const TEXT_LENGTH_MAX = 2000

interface Case {
  readonly pattern: RegExp
  readonly code: StatusName
  readonly say?: (command: string) => string
}

/**
 * Cases in the order tried. The words "executable file not found in $PATH" and "permission denied" are what people and
 * tools look for, from runc's messages. A missing command is the caller's mistake: NOT_FOUND would say that the
 * *container* is missing.
 */
const cases: readonly Case[] = [
  { pattern: /^executable file .* not found/, code: 'INVALID_ARGUMENT', say: (command) => `exec: "${command}": executable file not found in $PATH` },
  { pattern: /^open executable: (?:Operation not permitted|Permission denied)/, code: 'PERMISSION_DENIED', say: (command) => `exec: "${command}": permission denied` },
  { pattern: /^exec(?:ve)?[: ].*Permission denied/i, code: 'PERMISSION_DENIED', say: (command) => `exec: "${command}": permission denied` },
  { pattern: /^exec(?:ve)?[: ].*Exec format error/i, code: 'INVALID_ARGUMENT', say: (command) => `exec: "${command}": exec format error` },
  { pattern: /^chdir .*No such file or directory/, code: 'INVALID_ARGUMENT' },
  // A working directory or a mount's destination that is, or lies below, a file of the image; or a file mounted on a directory.
  { pattern: /^(?:chdir|mkdir|mount) .*Not a directory$/, code: 'INVALID_ARGUMENT' },
  { pattern: /^container .* already exists/, code: 'ALREADY_EXISTS' },
  { pattern: /error opening file .*\/status.*No such file or directory/, code: 'NOT_FOUND' },
  { pattern: /the container .* is not running|container .* is not running/, code: 'FAILED_PRECONDITION' },
  { pattern: /No space left on device|Cannot allocate memory/, code: 'RESOURCE_EXHAUSTED' },
  { pattern: /unknown version|invalid|not supported|cannot parse|is not valid|unknown/i, code: 'INVALID_ARGUMENT' },
]

export function runtimeFailure(failure: Failure): RuntimeError {
  const { operation, containerId, command } = failure
  const said = lastError(failure.log)
  const found = cases.find(({ pattern }) => pattern.test(said))
  const what = found?.say !== undefined && command !== undefined ? `${found.say(command)} (crun: ${said})` : `crun: ${said || ending(failure)}`
  return new RuntimeError(found?.code ?? 'INTERNAL', `${operation} ${containerId} failed: ${what}`)
}

function ending({ exitCode, signal }: Failure): string {
  return signal === undefined ? `exited with status ${exitCode ?? 'unknown'} and said nothing` : `ended by ${signal}`
}

/** The last error of a crun log; without one, the last line. Control characters become spaces. */
export function lastError(log: string): string {
  const lines = log.split('\n').filter((line) => line.trim() !== '')
  const records = lines.map(parseRecord)
  const record = records.findLast(({ level }) => level === 'error') ?? records.at(-1)
  // oxlint-disable-next-line no-control-regex
  return (record?.message ?? '').replaceAll(/[\u0000-\u001f\u007f]+/g, ' ').trim().slice(0, TEXT_LENGTH_MAX)
}

function parseRecord(line: string): { readonly level: string; readonly message: string } {
  try {
    const record: unknown = JSON.parse(line)
    if (typeof record === 'object' && record !== null && 'msg' in record && typeof record.msg === 'string') {
      const level = 'level' in record && typeof record.level === 'string' ? record.level : ''
      return { level, message: record.msg }
    }
  } catch {
    // Not JSON: crun died before it could format, and the bare line is the message.
  }
  return { level: '', message: line }
}
