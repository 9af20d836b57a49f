/** What lies on the root disk, and the disk itself. */
import { chmod, copyFile, mkdir, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { AGENT_BUNDLE } from './agent.ts'
import type { Module } from './modules.ts'
import { runTool } from './toolchain.ts'

/** Seconds since the epoch that every file carries: no build's own time gets into the image. */
export const SOURCE_DATE_EPOCH = 1_700_000_000

/** The file system's identity; fixed, as its content names it well enough. */
const UUID = '6b756173-6172-4d6f-8001-726f6f746673'

/** Directories that are mounted over or written to, by path, with their modes. */
const directories: Readonly<Record<string, number>> = {
  dev: 0o755,
  etc: 0o755,
  proc: 0o555,
  run: 0o755,
  sys: 0o555,
  tmp: 0o1777,
  'usr/bin': 0o755,
  'usr/sbin': 0o755,
  'usr/lib/kuasar': 0o755,
  'usr/lib64': 0o755,
  var: 0o755,
}

/** A merged /usr, as everyone has it. */
const links: Readonly<Record<string, string>> = {
  bin: 'usr/bin',
  sbin: 'usr/sbin',
  lib: 'usr/lib',
  lib64: 'usr/lib64',
  'var/run': '/run',
}

/** Enough of /etc for libc to name root and to resolve localhost. */
const texts: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n',
  'etc/group': 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n',
  'etc/hosts': '127.0.0.1 localhost\n::1 localhost\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
}

export interface RootContent {
  readonly init: string
  readonly node: string
  readonly addon: string
  readonly bundle: string
  readonly crun: string
  readonly ip: string
  /** soname to file. */
  readonly libraries: ReadonlyMap<string, string>
  /** Loaded at every start. */
  readonly modules: readonly Module[]
  /** Loaded when the kernel asks for them, and the list that says for what. */
  readonly demanded: { readonly modules: readonly Module[]; readonly list: string }
}

export const LIBRARY_DIRECTORY = 'usr/lib/x86_64-linux-gnu'
const LOADER = 'ld-linux-x86-64.so.2'

/** Lays the content out below `root`, which must not exist. */
export async function stageRoot(root: string, content: RootContent): Promise<void> {
  for (const [path, mode] of Object.entries(directories)) await makeDirectory(join(root, path), mode)
  for (const [path, target] of Object.entries(links)) await symlink(target, join(root, path))
  for (const [path, text] of Object.entries(texts)) await writeFile(join(root, path), text)
  await install(content.init, join(root, 'usr/sbin/init'))
  await install(content.node, join(root, 'usr/bin/node'))
  await install(content.crun, join(root, 'usr/bin/crun'))
  await install(content.ip, join(root, 'usr/bin/ip'))
  await install(content.addon, join(root, 'usr/lib/kuasar/os.node'), 0o644)
  await install(content.bundle, join(root, AGENT_BUNDLE), 0o644)
  for (const [name, file] of content.libraries) {
    await install(file, join(root, name === LOADER ? 'usr/lib64' : LIBRARY_DIRECTORY, name))
  }
  await stageModules(root, content)
  // Without a cache the loader probes some thirty directories for each library.
  await runTool(['ldconfig', '-r', root, '-X'], [root])
}

/** Where a module lies on the root disk. */
export const modulePath = ({ name }: Module): string => `/usr/lib/kuasar/${name}.ko`

async function stageModules(root: string, { modules, demanded }: RootContent): Promise<void> {
  for (const module of [...modules, ...demanded.modules]) await install(module.path, join(root, modulePath(module)), 0o644)
  await writeFile(join(root, 'usr/lib/kuasar/modules'), modules.map((module) => `${modulePath(module)}\n`).join(''))
  await writeFile(join(root, 'usr/lib/kuasar/modules-on-demand'), demanded.list)
  // The kernel's own default for who loads a module it lacks (CONFIG_MODPROBE_PATH).
  await symlink('init', join(root, 'usr/sbin/modprobe'))
}

async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { recursive: true })
  await chmod(path, mode)
}

async function install(from: string, to: string, mode = 0o755): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await copyFile(from, to)
  await chmod(to, mode)
}

/** How file content is stored. */
export const compressions = ['none', 'lz4', 'lz4hc'] as const
export type Compression = (typeof compressions)[number]

/**
 * Chosen by measurement (README.md): Node's cold start from an uncompressed disk is 10 to 20 % shorter, and equal bytes
 * of several guests are one page in the host's cache.
 */
export const IMAGE_COMPRESSION: Compression = 'none'

/** Bytes that are compressed together. Larger saves little and makes each page fault read more. */
const CLUSTER_BYTES = 16_384

/** Writes the tree as an erofs image. Equal trees give equal bytes. */
export async function makeErofs(root: string, image: string, compression: Compression): Promise<void> {
  const algorithm = compression === 'none' ? [] : [`-z${compression}`, `-C${CLUSTER_BYTES}`]
  const fixed = ['-x-1', '--all-root', '--ignore-mtime', `-T${SOURCE_DATE_EPOCH}`, `-U${UUID}`, '--quiet']
  await runTool(['mkfs.erofs', ...fixed, ...algorithm, image, root], [root, dirname(image)])
}
