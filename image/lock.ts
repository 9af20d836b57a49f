/** The exact packages an image is built from. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { lockFile } from './paths.ts'

export const lockedPackage = z.strictObject({
  name: z.string(),
  version: z.string(),
  architecture: z.string(),
  /** Source package; "name (version)" when that version differs from the binary's. */
  source: z.string(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  sizeBytes: z.int().positive(),
})

const lockSchema = z.strictObject({
  /** Debian release the packages are of. */
  suite: z.string(),
  /** What the image takes files from. */
  packages: z.array(lockedPackage),
  /** What it is made with. */
  toolchain: z.array(lockedPackage),
})

export type LockedPackage = z.infer<typeof lockedPackage>
export type Lock = z.infer<typeof lockSchema>

/** The kernel follows this package; the lock holds what it depends on. */
export const KERNEL_META_PACKAGE = 'linux-image-cloud-amd64'

/** What the image takes files from, the kernel aside. The build fails, naming it, when a library is missing here. */
export const shippedPackages = [
  'crun',
  'iproute2',
  'libbsd0',
  'libc6',
  'libcap2',
  'libgcc-s1',
  'libmd0',
  'libmnl0',
  'libseccomp2',
  'libstdc++6',
  'libyajl2',
] as const

/**
 * What a package of the toolchain is to the image: `linked`, its code becomes part of it; `tool`, the build runs it;
 * `needed`, its libraries or headers are what a tool works with.
 */
export type ToolchainRole = 'linked' | 'tool' | 'needed'

/** What the image is compiled, linked and packed with, shared libraries aside that it ships as well. */
export const toolchainPackages: Readonly<Record<string, ToolchainRole>> = {
  binutils: 'tool',
  'binutils-x86-64-linux-gnu': 'tool',
  'cpp-12': 'tool',
  'erofs-utils': 'tool',
  'gcc-12': 'tool',
  libbinutils: 'needed',
  'libc-bin': 'tool',
  'libc6-dev': 'linked',
  'libctf-nobfd0': 'needed',
  libctf0: 'needed',
  'libgcc-12-dev': 'linked',
  libgmp10: 'needed',
  libisl23: 'needed',
  libjansson4: 'needed',
  'liblz4-1': 'needed',
  libmpc3: 'needed',
  libmpfr6: 'needed',
  'libpcre2-8-0': 'needed',
  libselinux1: 'needed',
  libuuid1: 'needed',
  libzstd1: 'needed',
  'linux-libc-dev': 'needed',
  zlib1g: 'needed',
}

/** Of the shipped packages, those that the toolchain needs to run. */
const sharedPackages = ['libc6', 'libgcc-s1', 'libstdc++6']

/** All that the toolchain's root is unpacked from. */
export function toolchainOf({ packages, toolchain }: Lock): LockedPackage[] {
  return [...packages.filter(({ name }) => sharedPackages.includes(name)), ...toolchain]
}

export async function readLock(path = lockFile): Promise<Lock> {
  const parsed = lockSchema.safeParse(JSON.parse(await readFile(path, 'utf8')))
  if (parsed.success) return parsed.data
  throw new Error(`${path}: ${z.prettifyError(parsed.error)}; \`make image-lock\` writes it anew`)
}

export function isKernel({ name }: LockedPackage): boolean {
  return name.startsWith('linux-image-')
}
