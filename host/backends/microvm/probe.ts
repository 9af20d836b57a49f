/** Looks at the machine before the first pod needs it. */
import { access, constants } from 'node:fs/promises'
import { RuntimeError, explain } from '#shared/errors.ts'
import type { MicrovmConfig } from './driver.ts'
import { VSOCK_GUARD } from './vhost-vsock.ts'

const programs = ['path', 'virtiofsd', 'vhost_device_vsock'] as const
const images = ['kernel', 'initramfs', 'rootfs'] as const

/** Errors: FAILED_PRECONDITION naming every key whose file is missing, and what of ours has not been built. */
export async function probeFiles(config: MicrovmConfig): Promise<void> {
  const wanted = [
    ...programs.map((key) => ({ what: key, file: config[key], mode: constants.X_OK, hint: 'install the program, or set the key to where it is' })),
    ...images.map((key) => ({ what: key, file: config[key], mode: constants.R_OK, hint: 'build it with `make image`, or set the key to where it is' })),
    { what: 'the guard of vhost-device-vsock', file: VSOCK_GUARD, mode: constants.R_OK, hint: 'build it with `make sandboxer`' },
  ]
  const complaints = await Promise.all(wanted.map(async ({ what, file, mode, hint }) => {
    try {
      await access(file, mode)
      return []
    } catch (error) {
      return [`${what} = ${JSON.stringify(file)}: ${explain(error)}; ${hint}`]
    }
  }))
  if (complaints.flat().length > 0) throw new RuntimeError('FAILED_PRECONDITION', complaints.flat().join('\n'))
}
