/** Removes what nodes left behind whose starter was killed before it could tidy up. */

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { nodeCgroups, removeCgroups } from './cgroup.ts'
import { namePrefix, starterLives } from './name.ts'
import { runDir } from './paths.ts'

/** Collects every dead node on this machine. Mounts and namespaces went with their processes. */
export async function collectDeadNodes(): Promise<void> {
  const directories = await readdir(runDir).catch(() => [])
  const names = new Set([...directories, ...(await nodeCgroups(namePrefix))])
  for (const name of names) {
    if (name.startsWith(namePrefix) && !starterLives(name)) await removeNode(name)
  }
}

/** Removes the cgroups and the directory of a node that no longer runs, killing stragglers first. */
export async function removeNode(name: string): Promise<void> {
  await removeCgroups(name)
  // rm can promise what fs.rm cannot: never to follow a mount out of the directory.
  await execa('rm', ['-rf', '--one-file-system', join(runDir, name)])
}
