/** The error of a mount that a sandbox cannot have: which one, what it is, and what to do instead. */
import { RuntimeError } from '#shared/errors.ts'
import type { OciMount } from './oci.ts'

type Code = 'UNIMPLEMENTED' | 'INVALID_ARGUMENT' | 'FAILED_PRECONDITION'

export function refused(code: Code, mount: OciMount, what: string, remedy: string): RuntimeError {
  const source = mount.source === null || mount.source === undefined || mount.source === '' ? '' : ` from ${mount.source}`
  return new RuntimeError(code, `the mount on ${mount.destination}${source} ${what}: ${remedy}`)
}
