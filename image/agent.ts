/** The agent as one file, and as a V8 start-up snapshot of that file. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { build } from 'esbuild'
import { execa } from 'execa'
import { checkout } from './paths.ts'
import type { NpmPackage } from './sbom.ts'
import { stripCodeCache } from './snapshot-blob.ts'

/** Where the root disk has them, as PID 1 knows them. Source: guest/init/agent.c. */
export const AGENT_BUNDLE = 'usr/lib/kuasar/agent.cjs'
export const AGENT_SNAPSHOT = 'usr/lib/kuasar/agent.blob'

/** The program the image starts: guest/main.ts, made startable both ways. */
export const agentEntry = join(import.meta.dirname, 'agent-entry.ts')

/** Bundles `entry` as one CommonJS file. Answers whose code it holds besides ours. */
export async function bundleAgent(entry: string, outfile: string): Promise<NpmPackage[]> {
  const { metafile } = await build({
    entryPoints: [entry],
    outfile,
    absWorkingDir: checkout,
    bundle: true,
    minifyWhitespace: true,
    minifySyntax: true,
    // Names stay as they are. Mangling would take them from stack traces, and esbuild's way to give them back (keepNames)
    // defines a property of every function each time one is made: 4 % of an exec.
    platform: 'node',
    target: 'node24',
    // A snapshot's entry cannot be an ES module.
    format: 'cjs',
    define: { 'import.meta.dirname': 'undefined', 'import.meta.url': 'undefined', 'import.meta.main': 'false' },
    legalComments: 'none',
    logLevel: 'warning',
    metafile: true,
  })
  const directories = Object.keys(metafile.inputs).flatMap((input) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0] ?? [])
  return await Promise.all([...new Set(directories)].sort().map((directory) => npmPackage(join(checkout, directory))))
}

/** What the package.json in `directory` says of itself. */
export async function npmPackage(directory: string): Promise<NpmPackage> {
  const { name, version, license }: Record<string, unknown> = JSON.parse(await readFile(join(directory, 'package.json'), 'utf8'))
  if (typeof name !== 'string' || typeof version !== 'string') throw new Error(`${relative(checkout, directory)} has no name and version`)
  return { name, version, license: typeof license === 'string' ? license : 'NOASSERTION' }
}

/**
 * Evaluates the bundle that lies below `root` and keeps the heap beside it. The Node that does so is the one below
 * `root`, with its libraries: a blob fits no other.
 *
 * Every function of the bundle and of the modules it loads is compiled in it (`--no-lazy`): to bytecode, so the blob is
 * not tied to the building machine's CPU and also loads under an emulated one. What else a heap would keep of its maker is
 * fixed: paths by the changed root, the process id by a PID namespace, the order of hash tables by the seed, the
 * environment by having none.
 */
export async function takeSnapshot(root: string): Promise<void> {
  const config = join(root, 'tmp/snapshot.json')
  await writeFile(config, JSON.stringify({ builder: `/${AGENT_BUNDLE}`, withoutCodeCache: false }))
  const flags = ['--random-seed=42', '--no-lazy']
  const node = ['/usr/bin/node', ...flags, '--snapshot-blob', `/${AGENT_SNAPSHOT}`, '--build-snapshot-config', '/tmp/snapshot.json']
  // By env(1), as a test runner's hook on child processes may add variables after us.
  await execa('/usr/bin/env', ['-i', '/usr/bin/unshare', '--fork', '--pid', '/usr/sbin/chroot', root, ...node])
  const blob = join(root, AGENT_SNAPSHOT)
  await writeFile(blob, stripCodeCache(await readFile(blob)))
  await rm(config)
}
