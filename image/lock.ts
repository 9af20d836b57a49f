/** The exact packages an image is built from. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { lockFile } from './paths.ts'

const lockedPackage = z.strictObject({
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
  packages: z.array(lockedPackage),
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

export async function readLock(path = lockFile): Promise<Lock> {
  const parsed = lockSchema.safeParse(JSON.parse(await readFile(path, 'utf8')))
  if (parsed.success) return parsed.data
  throw new Error(`${path}: ${z.prettifyError(parsed.error)}; \`make image-lock\` writes it anew`)
}

export function isKernel({ name }: LockedPackage): boolean {
  return name.startsWith('linux-image-')
}
