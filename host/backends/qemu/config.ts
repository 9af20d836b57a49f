/** Keys of a `[backends.NAME]` table whose `kind` is "qemu". */
import { z } from 'zod'
import { parseTable } from '#host/config/table.ts'
import { acceleratorSettings } from '../microvm/kvm.ts'

/** QEMU reads "," in an option's value as the start of the next option. */
const path = z.string().refine((text) => /^\/[^,\0]*$/.test(text), 'an absolute path without ","')

const schema = z.strictObject({
  /** The emulator */
  path: path.default('/usr/bin/qemu-system-x86_64'),
  /** "auto" takes KVM where it truly works, else emulation with a warning */
  accel: z.enum(acceleratorSettings).default('auto'),
  /** QEMU's -cpu; "auto" is the host's own under KVM and all that can be emulated under TCG */
  cpu: z.string().regex(/^[\w.+-]+(,[\w.=+-]+)*$/, 'a CPU model as QEMU spells it ("max,-avx512f")').default('auto'),
  kernel: path.default('/usr/share/kuasar/vmlinux'),
  initramfs: path.default('/usr/share/kuasar/initramfs.cpio'),
  rootfs: path.default('/usr/share/kuasar/rootfs.erofs'),
  /** Added to the end of the kernel's command line */
  kernel_parameters: z.string().regex(/^[\x20-\x7e]*$/, 'printable ASCII').default(''),
  virtiofsd: path.default('/usr/libexec/virtiofsd'),
  vhost_device_vsock: path.default('/usr/bin/vhost-device-vsock'),
})

export type QemuConfig = z.output<typeof schema>

/** Defaults filled in. Errors: INVALID_ARGUMENT naming key, value and what was expected. */
export function parseQemuConfig(raw: unknown, at: string): QemuConfig {
  return parseTable(schema, raw, at)
}
