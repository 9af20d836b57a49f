/**
 * `make image`: kernel, initramfs and root disk of the guest, from locked Debian packages, the pinned Node and this
 * checkout. Everything that could differ between two builds is fixed, so equal inputs give equal bytes.
 */
import { copyFile, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { bundleAgent, npmPackage, takeSnapshot } from './agent.ts'
import { makeInitramfs } from './initramfs.ts'
import { unpackKernel } from './kernel.ts'
import { findLibraries, libraryClosure } from './libraries.ts'
import { type LockedPackage, isKernel, readLock } from './lock.ts'
import { type Module, demandList, demandModules, initramfsModules, moduleClosure, readModuleTree, rootModules } from './modules.ts'
import { digest, fetchPackages, unpack } from './packages.ts'
import { type ImagePaths, addonBinary, checkout, imagePaths, initBinary, nodeBinary } from './paths.ts'
import { type Share, shares } from './report.ts'
import { type Compression, makeErofs, modulePath, stageRoot } from './rootfs.ts'
import { type NpmPackage, spdxDocument } from './sbom.ts'
import { crunStubs, ipStubs, makeStub } from './stub.ts'
import { readToolchain, runTool } from './toolchain.ts'

export interface BuildOptions {
  /** Directory of the result, replaced as a whole once all of it is built. */
  readonly out: string
  /** The agent's program, an ES module in TypeScript. */
  readonly entry: string
  readonly compression: Compression
}

export interface Built {
  readonly paths: ImagePaths
  /** What takes the space on the root disk. */
  readonly shares: readonly Share[]
}

export async function buildImage({ out, entry, compression }: BuildOptions): Promise<Built> {
  const lock = await readLock()
  const toolchain = await readToolchain(lock)
  await mkdir(dirname(out), { recursive: true })
  const work = await mkdtemp(join(dirname(out), `${basename(out)}-work-`))
  try {
    const made = imagePaths(join(work, 'out'))
    await mkdir(made.out)
    const { packages, locked } = await fetchPackages(lock.packages)
    const unpacked = join(work, 'packages')
    await unpack(packages, unpacked)
    const { release, modules, demanded } = await makeKernel(unpacked, packages, made, work)
    const node = join(work, 'node')
    await runTool(['strip', '-o', node, nodeBinary], [work])
    const bundle = join(work, 'agent.cjs')
    const npm = await bundleAgent(entry, bundle)
    const crun = join(unpacked, 'usr/bin/crun')
    const ip = join(unpacked, 'bin/ip')
    const found = await findLibraries(unpacked)
    for (const stub of crunStubs) found.set(stub.library, await makeStub(crun, stub, work))
    for (const stub of ipStubs) found.set(stub.library, await makeStub(ip, stub, work))
    const libraries = await libraryClosure([node, crun, ip], found)
    const root = join(work, 'root')
    await stageRoot(root, { init: initBinary, node, addon: addonBinary, bundle, crun, ip, libraries, modules, demanded })
    await takeSnapshot(root)
    await makeErofs(root, made.rootfs, compression)
    await describe(made, { release, compression, locked: locked && toolchain.locked, packages, toolchain: toolchain.packages, npm })
    await rm(out, { recursive: true, force: true })
    await rename(made.out, out)
    return { paths: imagePaths(out), shares: await shares(root) }
  } finally {
    await rm(work, { recursive: true })
  }
}

/** Both forms of the kernel, the initramfs, and the modules that the root disk carries. */
async function makeKernel(unpacked: string, packages: readonly LockedPackage[], made: ImagePaths, work: string) {
  const kernel = packages.find(isKernel)
  if (kernel === undefined) throw new Error('the lock names no kernel; `make image-lock` writes it anew')
  const release = kernel.name.replace('linux-image-', '')
  await copyFile(join(unpacked, 'boot', `vmlinuz-${release}`), made.kernel)
  await writeFile(made.vmlinux, unpackKernel(await readFile(made.kernel)))
  const tree = await readModuleTree(join(unpacked, 'lib/modules', release))
  const early = await moduleClosure(tree, initramfsModules)
  const late = await moduleClosure(tree, rootModules, early)
  await writeFile(made.initramfs, await makeInitramfs(initBinary, await strip(early, join(work, 'early'))))
  const loaded = [...early, ...late]
  const demanded = await moduleClosure(tree, demandModules, loaded)
  return {
    release,
    modules: await strip(late, join(work, 'late')),
    demanded: { modules: await strip(demanded, join(work, 'demanded')), list: await demandList(tree, loaded, modulePath) },
  }
}

/** Debug sections and the signature go: the kernel does not require one, and checking it costs the guest time. */
async function strip(modules: readonly Module[], directory: string): Promise<Module[]> {
  await mkdir(directory)
  const stripped = modules.map(({ name }) => ({ name, path: join(directory, `${name}.ko`) }))
  for (const [index, { path }] of modules.entries()) await copyFile(path, stripped[index]?.path ?? '')
  await runTool(['strip', '--strip-debug', ...stripped.map(({ path }) => path)], [directory])
  return stripped
}

interface Description {
  readonly release: string
  readonly compression: Compression
  readonly locked: boolean
  readonly packages: readonly LockedPackage[]
  readonly toolchain: readonly LockedPackage[]
  /** Whose code the agent's bundle holds. */
  readonly npm: readonly NpmPackage[]
}

/** manifest.json and the bill of materials. */
async function describe(made: ImagePaths, { release, compression, locked, packages, toolchain, npm }: Description): Promise<void> {
  const node = await npmPackage(join(dirname(nodeBinary), '..'))
  const esbuild = await npmPackage(join(checkout, 'node_modules/esbuild'))
  const { version } = await npmPackage(checkout)
  const files: Record<string, object> = {}
  for (const path of [made.kernel, made.vmlinux, made.initramfs, made.rootfs]) {
    files[basename(path)] = { sha256: await digest(path), sizeBytes: (await stat(path)).size }
  }
  const manifest = { version, kernelRelease: release, nodeVersion: node.version, compression, locked, files }
  await writeFile(made.manifest, json(manifest))
  const contents = { rootfsSha256: await digest(made.rootfs), version, debian: packages, npm: [node, ...npm], toolchain, npmTools: [esbuild] }
  await writeFile(made.sbom, json(spdxDocument(contents)))
}

function json(value: object): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}
