/** What every node starts from, where it is once built, and how to have it. */

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { imagesHash } from '#test/images/archive.ts'
import { buildDir } from './paths.ts'
import { rootDir } from './root.ts'

/** A containerd's /var/lib/containerd with the test images in it, unpacked: importing them takes seconds, a copy none. */
export const containerdSeed = join(buildDir, `containerd-${imagesHash(rootDir)}`)

/** True when nothing is missing. Everything gets its name only once it is complete. */
export function isBuilt(): boolean {
  return existsSync(rootDir) && existsSync(containerdSeed)
}

/** Builds what is missing. Several processes may ask at once: one builds, the others wait. */
export async function ensureBuilt(): Promise<void> {
  if (isBuilt()) return
  await mkdir(buildDir, { recursive: true })
  const program = join(import.meta.dirname, 'build.ts')
  await execa('flock', [join(buildDir, 'lock'), process.execPath, program], { stdio: ['ignore', 'inherit', 'inherit'] })
}
