/**
 * Guests for comparison, made of the very image that pods boot: its kernel modules under another PID 1, or its root disk
 * with another program in the agent's place. Everything else is the same bytes.
 */
import { copyFile, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { AGENT_BUNDLE, AGENT_SNAPSHOT, takeSnapshot } from '../../image/agent.ts'
import { cpio } from '../../image/cpio.ts'
import { moduleClosure } from '../../image/modules.ts'
import { type ImagePaths, imagePaths } from '../../image/paths.ts'
import { type Compression, compressions, makeErofs } from '../../image/rootfs.ts'
import type { TestNode } from '#test/node/node.ts'
import { checkout, inside } from '#test/node/paths.ts'

/** Built by `make bench`. */
const floorBinary = join(checkout, 'build/bench/floor')

/** What a guest needs to reach its host. */
const floorModules = ['virtio_pci', 'vmw_vsock_virtio_transport']

export interface ImageFiles {
  /** Paths inside the node. */
  readonly initramfs: string
  readonly rootfs: string
}

/** An image taken apart in a node's scratch directory; `name` is unique within it. */
export interface Parts {
  /** The initramfs and the root disk as directories, seen from outside the node. */
  readonly initramfs: string
  readonly root: string
}

const unpack = `set -e; mkdir -p "$1/initramfs"; cd "$1/initramfs"; busybox cpio -idm < "$2" 2>/dev/null
fsck.erofs --extract="$1/root" "$3" >/dev/null`

export async function takeApart(node: TestNode, image: ImageFiles, name: string): Promise<Parts> {
  await node.run('sh', ['-c', unpack, 'sh', `${inside.scratch}/${name}`, image.initramfs, image.rootfs])
  const directory = join(node.dir, 'scratch', name)
  return { initramfs: join(directory, 'initramfs'), root: join(directory, 'root') }
}

/** An initramfs that says hello and no more. Answers its path inside the node. */
export async function floorInitramfs(node: TestNode, parts: Parts): Promise<string> {
  const paths = new Map<string, string>()
  for (const directory of [parts.initramfs, join(parts.root, 'usr/lib/kuasar')]) {
    for (const file of await readdir(directory)) {
      if (file.endsWith('.ko')) paths.set(file.slice(0, -3).replaceAll('-', '_'), join(directory, file))
    }
  }
  const modules = await moduleClosure({ paths, builtin: new Set() }, floorModules)
  const files = await Promise.all(modules.map(async ({ name, path }) => ({ path: `${name}.ko`, content: await readFile(path) })))
  const archive = cpio([
    { kind: 'file', path: 'init', mode: 0o755, content: await readFile(floorBinary) },
    { kind: 'file', path: 'modules', mode: 0o644, content: Buffer.from(files.map(({ path }) => `/${path}\n`).join('')) },
    ...files.map((file) => ({ kind: 'file', mode: 0o644, ...file }) as const),
  ])
  await writeFile(join(node.dir, 'scratch/floor.cpio'), archive)
  return `${inside.scratch}/floor.cpio`
}

export interface Agent {
  /** A CommonJS file outside the node. */
  readonly bundle: string
  /** Started from a V8 start-up snapshot, as the product's agent is; otherwise PID 1 starts the bundle. */
  readonly snapshot: boolean
}

/** The root disk with another program in the agent's place, compressed as the image's own is. Answers its path inside the node. */
export async function rootfsWithAgent(node: TestNode, parts: Parts, agent: Agent, name: string): Promise<string> {
  await copyFile(agent.bundle, join(parts.root, AGENT_BUNDLE))
  await rm(join(parts.root, AGENT_SNAPSHOT), { force: true })
  if (agent.snapshot) await takeSnapshot(parts.root)
  await makeErofs(parts.root, join(node.dir, 'scratch', `${name}.erofs`), await compressionOf(imagePaths()))
  return `${inside.scratch}/${name}.erofs`
}

const manifest = z.object({ compression: z.enum(compressions) })

async function compressionOf({ manifest: file }: ImagePaths): Promise<Compression> {
  return manifest.parse(JSON.parse(await readFile(file, 'utf8'))).compression
}
