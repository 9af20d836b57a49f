/** `make node`: builds the root, and in it the state of a containerd that has the test images. Run under the build lock. */

import { existsSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { buildArchive } from '#test/images/archive.ts'
import { images } from '#test/images/catalog.ts'
import { containerdSeed, isBuilt } from './built.ts'
import { debianContainerd, startContainerd } from './containerd.ts'
import { startNode } from './node.ts'
import { poll } from './poll.ts'
import { buildRoot, rootDir } from './root.ts'

/** How long CRI may take to take notice of imported images. */
const noticeMsMax = 30_000

const startMs = Date.now()
if (isBuilt()) say(`node: ${rootDir} is up to date`)
else {
  if (!existsSync(rootDir)) await buildRoot(say)
  await buildSeed()
  say(`node: ${rootDir} built in ${((Date.now() - startMs) / 1000).toFixed(1)} s`)
}

/** Imports the images into a containerd in a node of its own and keeps what that leaves on disk. */
async function buildSeed(): Promise<void> {
  await using node = await startNode({ images: false })
  await using containerd = await startContainerd(node, { program: debianContainerd })
  await writeFile(join(node.dir, 'scratch/images.tar'), await buildArchive(rootDir))
  await node.run('ctr', ['--namespace', 'k8s.io', 'images', 'import', '--local', '/scratch/images.tar'])
  const noticed = await poll(noticeMsMax, async () => {
    const { images: known } = await containerd.cri.images.ListImages({})
    const references = new Set(known.flatMap(({ repoTags }) => repoTags))
    return Object.values(images).every((reference) => references.has(reference)) ? true : undefined
  })
  if (noticed === undefined) throw new Error(`CRI does not list the imported images: ${await containerd.service.log()}`)
  await containerd.stop()
  const building = `${containerdSeed}.building`
  await rm(building, { recursive: true, force: true })
  // Whiteouts are device nodes and overlay keeps its marks in extended attributes: cp keeps both, fs.cp neither.
  await execa('cp', ['--archive', node.path('/var/lib/containerd'), building])
  await rename(building, containerdSeed)
}

function say(line: string): void {
  console.error(line)
}
