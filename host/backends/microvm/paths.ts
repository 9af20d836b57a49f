/** Names in a sandbox's directory. They outlive a sandboxer, so a later one finds the VM by them: never rename one. */
import { join } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import type { VmPaths } from './driver.ts'

/** sun_path holds 108 bytes with its NUL, unix(7). */
const SOCKET_PATH_BYTES_MAX = 107

/** Errors: INVALID_ARGUMENT when the directory is too deep for a unix socket. */
export function vmPaths(dir: string): VmPaths {
  const paths = {
    control: join(dir, 'qmp.sock'),
    console: join(dir, 'console.log'),
    virtiofs: join(dir, 'virtiofs.sock'),
    roots: join(dir, 'roots.sock'),
    vhostVsock: join(dir, 'vhost-vsock.sock'),
    vsock: join(dir, 'vsock'),
  }
  const longest = Buffer.byteLength(paths.vhostVsock)
  if (longest > SOCKET_PATH_BYTES_MAX)
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `${paths.vhostVsock} is ${longest} bytes long; a unix socket takes ${SOCKET_PATH_BYTES_MAX}: set sandboxer.state_dir to a shorter path`,
    )
  return paths
}

export const logFile = (dir: string, processName: string): string => join(dir, `${processName}.log`)
