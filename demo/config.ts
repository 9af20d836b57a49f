/** The sandboxer's configuration in the demo's node: the image from this checkout, the rest as it comes. */
import { inside } from '#test/node/paths.ts'

export const adminSocket = '/run/kuasar/admin.sock'

export const demoSandboxerConfig = {
  backends: {
    'kuasar-qemu': {
      kind: 'qemu',
      kernel: `${inside.checkout}/build/image/vmlinux`,
      initramfs: `${inside.checkout}/build/image/initramfs.cpio`,
      rootfs: `${inside.checkout}/build/image/rootfs.erofs`,
    },
  },
} as const
