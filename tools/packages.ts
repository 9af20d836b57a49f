/**
 * Packs the parts of shared/ that stand alone as npm packages: compiled modules with their types, README, licence, and a
 * manifest that says what the checkout's own says. The same checkout packs to the same bytes.
 *
 *   node tools/packages.ts build/packages        (`make packages`, which makes the native parts first)
 */
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'

interface Part {
  readonly name: string
  readonly description: string
  readonly keywords: readonly string[]
  /** Its README's folder, from the checkout on; `index.ts` in it is the package's face. */
  readonly folder: string
  /** What becomes `lib/`. Of it there is in the package what the face and `programs` import. */
  readonly root: string
  /** Modules that nothing imports, from `folder` on */
  readonly programs: readonly string[]
  /** Files beside the modules: what each is called in the package, and where it is in the checkout */
  readonly files: Readonly<Record<string, string>>
  /** Commands: the module of each, in the package */
  readonly bin?: Readonly<Record<string, string>>
}

export const parts: readonly Part[] = [
  {
    name: 'ttrpc-ts',
    description: "ttrpc, the RPC of containerd's shims and guests, for Node.js: client and server, every kind of call, typed, no dependencies",
    keywords: ['ttrpc', 'containerd', 'rpc', 'protobuf', 'grpc', 'streaming'],
    folder: 'shared/ttrpc',
    root: 'shared',
    programs: [],
    files: {},
  },
  {
    name: 'node-vsock',
    description: 'AF_VSOCK sockets between a virtual machine and its host as ordinary net.Sockets, for Node.js on Linux',
    keywords: ['vsock', 'AF_VSOCK', 'virtio', 'vm', 'firecracker', 'qemu', 'socket'],
    folder: 'shared/os/vsock',
    root: 'shared/os',
    programs: ['build.ts'],
    files: {
      ...Object.fromEntries(['addon.c', 'addon.h', 'cc-flags', 'poll.c', 'vsock.c'].map((file) => [`native/${file}`, `shared/os/native/${file}`])),
      ...Object.fromEntries(['linux-arm64.node', 'linux-x64.node'].map((file) => [`prebuilt/${file}`, `build/os/vsock/${file}`])),
    },
    bin: { 'node-vsock-build': 'lib/vsock/build.js' },
  },
]

const checkout = fileURLToPath(new URL('..', import.meta.url))

/** Writes `OUT/NAME/`, what is in the package, and `OUT/NAME-VERSION.tgz`; answers the latter. */
export async function pack(part: Part, out: string): Promise<string> {
  const stage = join(out, part.name)
  await rm(stage, { recursive: true, force: true })
  await mkdir(stage, { recursive: true })
  await compile(part, stage)
  const manifest = await manifestOf(part)
  await writeFile(join(stage, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`)
  await copyFile(join(checkout, 'LICENSE'), join(stage, 'LICENSE'))
  await copyFile(join(checkout, part.folder, 'README.md'), join(stage, 'README.md'))
  for (const [file, from] of Object.entries(part.files)) {
    await mkdir(dirname(join(stage, file)), { recursive: true })
    await copyFile(join(checkout, from), join(stage, file))
  }
  await execa('npm', ['pack', '--ignore-scripts', '--loglevel=error', '--pack-destination', out], { cwd: stage })
  return join(out, `${manifest.name}-${manifest.version}.tgz`)
}

/** The compiler's own choice of files: the face, the programs, and all they import. */
async function compile({ folder, root, programs }: Part, stage: string): Promise<void> {
  const config = join(stage, 'tsconfig.json')
  const compilerOptions = {
    noEmit: false,
    rewriteRelativeImportExtensions: true,
    declaration: true,
    stripInternal: true,
    // Not looked for beside the configuration, which is where the package will be.
    typeRoots: [join(checkout, 'node_modules/@types')],
    rootDir: join(checkout, root),
    outDir: join(stage, 'lib'),
  }
  const files = ['index.ts', ...programs].map((file) => join(checkout, folder, file))
  await writeFile(config, JSON.stringify({ extends: join(checkout, 'tsconfig.json'), compilerOptions, include: [], files }))
  await execa('tsc', ['-p', config], { preferLocal: true, localDir: checkout })
  await rm(config)
  for (const file of await readdir(join(stage, 'lib'), { recursive: true })) {
    if (file.endsWith('.d.ts')) await nameModules(join(stage, 'lib', file))
  }
}

/** The compiler renames imported modules in what it makes of a source file, but not in its types. */
async function nameModules(file: string): Promise<void> {
  const types = await readFile(file, 'utf8')
  await writeFile(file, types.replaceAll(/(from |import\()(["'])(\.\.?\/[^"']+)\.ts\2/g, '$1$2$3.js$2'))
}

async function manifestOf({ name, description, keywords, folder, root, files, bin }: Part) {
  const { version, license, engines } = JSON.parse(await readFile(join(checkout, 'package.json'), 'utf8'))
  const face = `./${join('lib', relative(root, folder), 'index')}`
  return {
    name,
    version: `${version}`,
    description,
    keywords,
    license,
    type: 'module',
    engines,
    exports: { '.': { types: `${face}.d.ts`, default: `${face}.js` }, './package.json': './package.json' },
    types: `${face}.d.ts`,
    sideEffects: false,
    files: ['lib', ...Object.keys(files)],
    ...(bin === undefined ? {} : { bin }),
    // Whoever compiles against the package has Node's types; whoever only runs it wants none.
    peerDependencies: { '@types/node': engines.node },
    peerDependenciesMeta: { '@types/node': { optional: true } },
  }
}

if (import.meta.main) {
  const [out] = process.argv.slice(2)
  if (out === undefined) throw new Error('name the folder for the packages: node tools/packages.ts build/packages')
  for (const part of parts) console.log(relative('.', await pack(part, resolve(out))))
}
