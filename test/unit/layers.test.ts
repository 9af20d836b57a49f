/**
 * Who may import whom. A folder may use itself and what its line names, nothing else; the longest folder that fits a
 * file is its layer. Imports of types count: a type is a promise too.
 */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

const SHARED = ['shared']
/** Contracts: types that upper layers fill and lower ones speak of. */
const HOST_BASE = [...SHARED, 'host/config', 'host/containerd/contract.ts', 'host/container/contract.ts', 'host/sandbox/ownership.ts']
/** What a backend knows of the house: its contract and the tools for processes and consoles. */
const BACKEND = [...SHARED, 'host/config/table.ts', ...['backend', 'backends', 'ownership', 'processes', 'held', 'liveness', 'console', 'cgroup', 'mounts'].map((name) => `host/sandbox/${name}.ts`)]
/** Each VMM is a folder, and none knows of another. */
const VMMS = globSync('host/backends/*/', { cwd: ROOT, exclude: ['host/backends/fake/', 'host/backends/microvm/'] }).map((folder) => folder.replace(/\/$/, ''))
/** The whole of the host but the daemon's own wiring. */
const HOST = ['api', 'backends', 'config', 'container', 'containerd', 'forward', 'link', 'metrics', 'network', 'sandbox'].map((name) => `host/${name}`)

/** The agent below its services. */
const GUEST = ['container', 'debug', 'forward', 'link', 'network', 'runtime', 'storage', 'streams'].map((name) => `guest/${name}`)

const layers: Readonly<Record<string, readonly string[]>> = {
  'shared': ['shared', 'proto'],
  // These are packages of their own as well (tools/packages.ts), with what they name here and nothing else.
  'shared/ttrpc': ['shared/errors.ts'],
  'shared/os/vsock': ['error', 'handle', 'load', 'poll'].map((name) => `shared/os/${name}.ts`),
  'host': [...SHARED, ...HOST],
  'host/api': [...HOST_BASE, 'host/sandbox', 'host/link'],
  'host/sandbox': [...HOST_BASE, 'host/forward', 'host/link', 'host/network'],
  'host/container': [...HOST_BASE, 'host/sandbox/mounts.ts', 'host/sandbox/share.ts'],
  'host/forward': [...SHARED, 'host/link/hang-up.ts'],
  'host/link': [...SHARED, 'host/network/plan.ts'],
  'host/metrics': [...SHARED, 'host/config/metrics.ts', 'host/forward', 'host/sandbox'],
  'host/network': SHARED,
  'host/containerd': SHARED,
  'host/config': SHARED,
  'host/ctl': SHARED,
  'host/shim': SHARED,
  'host/backends': [...SHARED, 'host/sandbox/backends.ts', 'host/sandbox/backend.ts', 'host/backends/fake', ...VMMS],
  // The suite stands in for a sandboxer.
  'host/backends/contract.ts': [...SHARED, ...HOST],
  'host/backends/fake': BACKEND,
  'host/backends/microvm': [...BACKEND, 'host/link/dial.ts'],
  ...Object.fromEntries(VMMS.map((vmm) => [vmm, [...BACKEND, 'host/backends/microvm', 'image/boot.ts']])),
  'guest': [...SHARED, ...GUEST, 'guest/services'],
  'guest/services': [...SHARED, ...GUEST, ...['rpc', 'pod', 'version', 'boot-marks'].map((name) => `guest/${name}.ts`)],
  'guest/container': [...SHARED, 'guest/runtime', 'guest/storage', 'guest/streams'],
  'guest/debug': SHARED,
  'guest/forward': SHARED,
  'guest/link': [...SHARED, 'guest/container/ports.ts', 'guest/rpc.ts'],
  'guest/network': SHARED,
  'guest/runtime': SHARED,
  'guest/storage': SHARED,
  'guest/streams': SHARED,
}

interface Import {
  readonly file: string
  readonly target: string
}

const sources = globSync(['shared/**/*.ts', 'host/**/*.ts', 'guest/**/*.ts'], { cwd: ROOT })
  .filter((file) => !file.endsWith('.test.ts') && !file.startsWith('shared/rpc/gen/'))
  .sort()

const pattern = /(?:^|\n)\s*(?:import|export)\s(?:[^'"`;]*?\sfrom\s+)?['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]\s*\)/g

function importsOf(file: string): Import[] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  return [...text.matchAll(pattern)].map((match) => ({ file, target: resolved(file, match[1] ?? match[2] ?? '') }))
}

/** A path from the root, or the bare name of a package. */
function resolved(file: string, name: string): string {
  if (name.startsWith('#')) return name.slice(1)
  if (name.startsWith('.')) return relative(ROOT, resolve(ROOT, dirname(file), name))
  return name
}

const isOwn = (target: string): boolean => /^(shared|host|guest|proto|test|image|bench|tools)\//.test(target)
const within = (target: string, place: string): boolean => target === place || target.startsWith(`${place}/`)

function layerOf(file: string): string {
  const fitting = Object.keys(layers).filter((layer) => within(file, layer))
  return fitting.reduce((longest, layer) => (layer.length > longest.length ? layer : longest), '')
}

const imports = sources.flatMap(importsOf)

t.test('imports go downward only', async (t) => {
  const widest = Math.max(...Object.keys(layers).map((layer) => layer.length))
  for (const [layer, allowed] of Object.entries(layers)) t.comment(`${layer.padEnd(widest)} → ${allowed.join(', ')}`)
  const wrong = imports
    .filter(({ target }) => isOwn(target))
    .filter(({ file, target }) => {
      const layer = layerOf(file)
      const own = layerOf(target) === layer && layer !== 'host'
      return !own && !(layer === 'host' && dirname(target) === 'host') && !(layers[layer] ?? []).some((place) => within(target, place))
    })
    .map(({ file, target }) => `${file} imports ${target}`)
  t.same(wrong, [])
  t.ok(imports.length > 200, `${imports.length} imports of ${sources.length} files were looked at`)
})

t.test('pure files import nothing of Node', async (t) => {
  const pure = sources.filter((file) => /\/(plan|state)\.ts$/.test(file))
  t.ok(pure.length > 2, pure.join(', '))
  t.same(
    imports.filter(({ file, target }) => pure.includes(file) && (target.startsWith('node:') || !isOwn(target))).map(({ file, target }) => `${file} imports ${target}`),
    [],
  )
})

t.test('native code has one door', async (t) => {
  const native = /process\.dlopen|createRequire|process\.binding|\.node['"]/
  const users = sources.filter((file) => native.test(readFileSync(join(ROOT, file), 'utf8')) && !file.startsWith('shared/os/'))
  t.same(users, [])
})

t.test('a wrong import would be found', async (t) => {
  t.equal(layerOf('host/backends/qemu/command.ts'), 'host/backends/qemu')
  t.equal(layerOf('host/main.ts'), 'host')
  t.equal(resolved('host/sandbox/undo.ts', '../backends/index.ts'), 'host/backends/index.ts')
  t.notOk((layers['host/sandbox'] ?? []).some((place) => within('host/backends/index.ts', place)))
  t.notOk((layers['host/backends/qemu'] ?? []).some((place) => within('host/backends/fake/guest.ts', place)))
  t.notOk((layers['guest'] ?? []).some((place) => within('host/sandbox/plan.ts', place)))
  t.notOk((layers['guest/streams'] ?? []).some((place) => within('guest/container/io.ts', place)))
})
