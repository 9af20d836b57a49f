/** All test images as one OCI archive. */

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { catalogue } from './catalog.ts'
import { ociArchive } from './oci.ts'

const sources = ['archive.ts', 'catalog.ts', 'oci.ts', 'tar.ts']

/** Changes with whatever changes the images: the code that makes them and the root that busybox comes from. */
export function imagesHash(rootDir: string): string {
  const hash = createHash('sha256').update(rootDir)
  for (const source of sources) hash.update(readFileSync(join(import.meta.dirname, source)))
  return hash.digest('hex').slice(0, 12)
}

/** Makes the archive from the busybox in `rootDir`. */
export async function buildArchive(rootDir: string): Promise<Buffer> {
  // The static busybox runs on any Linux, so its list of applets can be had without entering the root.
  const busybox = join(rootDir, 'usr/bin/busybox')
  const { stdout } = await execa(busybox, ['--list'])
  return ociArchive(catalogue(await readFile(busybox), stdout.split('\n').filter((name) => name !== '')))
}
