/**
 * The parts of shared/ that stand alone, as a stranger has them: packed, installed by npm into an empty folder, compiled by the
 * pinned TypeScript at its strictest, and run. So are the examples of their READMEs.
 */
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { checkout } from '#test/node/paths.ts'
import { neededLibraries } from '../../image/elf.ts'
import { parts } from '../../tools/packages.ts'

const modules = (...names: string[]) => names.flatMap((name) => [`lib/${name}.d.ts`, `lib/${name}.js`])

const contents: Readonly<Record<string, readonly string[]>> = {
  'ttrpc-ts': modules(
    'errors', 'ttrpc/client', 'ttrpc/client-call', 'ttrpc/connection', 'ttrpc/deadline', 'ttrpc/envelope', 'ttrpc/frame',
    'ttrpc/index', 'ttrpc/limits', 'ttrpc/message-pump', 'ttrpc/method', 'ttrpc/options', 'ttrpc/protobuf', 'ttrpc/receive-queue',
    'ttrpc/request-stream', 'ttrpc/send-queue', 'ttrpc/server', 'ttrpc/server-call', 'ttrpc/server-link', 'ttrpc/service',
    'ttrpc/stall', 'ttrpc/status', 'ttrpc/time-share',
  ),
  'node-vsock': [
    ...modules(
      'error', 'handle', 'load', 'poll', 'vsock/addon', 'vsock/build', 'vsock/contract', 'vsock/index', 'vsock/own-addon',
      'vsock/socket', 'vsock/split', 'vsock/vsock',
    ),
    ...['addon.c', 'addon.h', 'cc-flags', 'poll.c', 'vsock.c'].map((file) => `native/${file}`),
    ...['linux-arm64.node', 'linux-x64.node'].map((file) => `prebuilt/${file}`),
  ],
}

/** elf(5): e_machine. */
const machines = { 'linux-arm64': 183, 'linux-x64': 62 }

/** What the addon takes of a libc: functions that glibc and musl both have, under these names. */
const libc = [
  '__errno_location', '__stack_chk_fail', '__stack_chk_guard', 'accept4', 'bind', 'calloc', 'close', 'connect', 'free', 'getsockname',
  'getsockopt', 'ioctl', 'listen', 'open', 'setsockopt', 'snprintf', 'socket', 'strerror', 'strlen',
]

const folder = await mkdtemp(join(tmpdir(), 'kuasar-packages-'))
t.teardown(() => rm(folder, { recursive: true }))
const home = join(folder, 'consumer')

/** Runs a command without tap's hooks, which it gives to every child: they are not for compilers and strangers. */
const plainly = (file: string, args: readonly string[], cwd: string, env: Readonly<Record<string, string>> = {}) =>
  execa('env', ['-u', 'NODE_OPTIONS', file, ...args], { cwd, reject: false, all: true, env })

/** The same in the stranger's folder. */
async function run(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const { all, exitCode } = await plainly(file, args, home, env)
  return { all, exitCode }
}

await t.test('the same checkout packs to the same bytes', async (t) => {
  const made = await plainly('make', ['--no-print-directory', 'packages'], checkout)
  const again = await plainly(process.execPath, ['tools/packages.ts', folder], checkout)
  t.match([made, again], [{ exitCode: 0 }, { exitCode: 0 }], `${made.all}\n${again.all}`)
  for (const { name } of parts) {
    const tarball = await findTarball(name)
    const first = await readFile(join(checkout, 'build/packages', basename(tarball)))
    t.ok(first.equals(await readFile(tarball)), basename(tarball))
  }
})

for (const { name } of parts) {
  await t.test(`what is in ${name}, and nothing else`, async (t) => {
    const tarball = await findTarball(name)
    const { stdout } = await execa('tar', ['tzf', tarball])
    const expected = ['LICENSE', 'README.md', 'package.json', ...(contents[name] ?? [])].map((file) => `package/${file}`)
    t.same(stdout.split('\n').toSorted(), expected.toSorted())

    const root = join(folder, name)
    const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
    t.match(manifest, { name, license: 'Apache-2.0', type: 'module', engines: { node: '>=24' }, peerDependenciesMeta: { '@types/node': { optional: true } } })
    for (const never of ['scripts', 'dependencies', 'devDependencies', 'private']) t.notOk(never in manifest, `${never}: none`)
    const { stdout: registry } = await execa('npm', ['config', 'get', 'registry'])
    const ours = [checkout, tmpdir(), homedir(), new URL(registry).host, `'#shared/`]
    for (const file of contents[name] ?? []) {
      const bytes = await readFile(join(root, file))
      t.same(ours.filter((word) => bytes.includes(word)), [], file)
      if (file.endsWith('.d.ts')) t.notMatch(bytes.toString().replaceAll(/\/\*[^]*?\*\//g, ''), /\bany\b|\.ts['"]/, `${file}: no any, and modules are .js`)
    }
  })
}

await t.test('the addon is for two processors, and for any libc', async (t) => {
  for (const [machine, number] of Object.entries(machines)) {
    const path = join(folder, `node-vsock/prebuilt/${machine}.node`)
    const elf = await readFile(path)
    t.equal(elf.readUInt16LE(18), number, machine)
    t.same(neededLibraries(elf), [], 'it names no library')
    const { stdout } = await execa('nm', ['-D', '--undefined-only', '--format=just-symbols', path])
    t.same(stdout.split('\n').filter((symbol) => !/^(napi|uv)_/.test(symbol) && !libc.includes(symbol)), [])
  }
})

await t.test('installed by npm', { bail: true }, async (t) => {
  await execa('mkdir', [home])
  await writeFile(join(home, 'package.json'), JSON.stringify({ name: 'stranger', private: true, type: 'module' }))
  const wanted = ['@grpc/proto-loader', '@types/node'].map(async (name) => `${name}@${await lockedVersion(name)}`)
  const tarballs = await Promise.all(parts.map(({ name }) => findTarball(name)))
  const installed = await run('npm', ['install', '--no-audit', '--no-fund', ...tarballs, ...(await Promise.all(wanted))])
  t.equal(installed.exitCode, 0, 'npm install')
  if (installed.exitCode !== 0) t.comment(installed.all)
  t.notMatch(installed.all, /ttrpc-ts|node-vsock/, 'npm has nothing to say of them')
})

let prints: string | undefined

await t.test('programs and examples compile, with every check', async (t) => {
  for (const file of ['tsconfig.json', 'counter.proto', 'ttrpc.ts', 'vsock.ts']) await copyFile(join(checkout, 'test/consumer', file), join(home, file))
  prints = await writeExamples('ttrpc-ts', 'greeter')
  await writeExamples('node-vsock', 'example')
  for (const more of [[], ['--target', 'es2024', '--lib', 'es2024'], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
    const { all, exitCode } = await run(join(checkout, 'node_modules/.bin/tsc'), ['-p', '.', ...more])
    t.same({ all, exitCode }, { all: '', exitCode: 0 }, more.join(' '))
  }
})

await t.test('ttrpc-ts runs', async (t) => {
  t.same(await run(process.execPath, ['ttrpc.ts']), { all: 'ttrpc-ts works', exitCode: 0 })
  t.same(await run(process.execPath, ['greeter.mts']), { all: prints, exitCode: 0 }, 'what README.md says it prints')
})

let loopback = ''
await t.test('node-vsock runs', async (t) => {
  const { all, exitCode } = await run(process.execPath, ['vsock.ts'])
  t.match({ all, exitCode }, { all: /^(loopback|no loopback: \w+ of \w+)$/, exitCode: 0 })
  loopback = all
  t.comment(loopback)
  const example = await run(process.execPath, ['example.mts'])
  if (loopback.startsWith('no')) t.match(example, { all: /OsError: .*vsock.*\((EAFNOSUPPORT|ETIMEDOUT|ENODEV|ECONNRESET)\)/, exitCode: 1 })
  else t.match(example, { all: /^hello, CID 1$/, exitCode: 0 })
})

await t.test('node-vsock where it has no addon', async (t) => {
  const asked = `try { await (await import('node-vsock')).connect({ cid: 1, port: 1 }) } catch (error) { console.log(error.message) }`
  /** What a connect says on another machine. */
  const elsewhere = async (platform: string, arch: string) => {
    const pretend = `for (const [key, value] of Object.entries(${JSON.stringify({ platform, arch })})) Object.defineProperty(process, key, { value })`
    const { all } = await run(process.execPath, ['--import', `data:text/javascript,${encodeURIComponent(pretend)}`, '--input-type=module', '-e', asked])
    return all
  }
  t.equal(await elsewhere('darwin', 'arm64'), 'AF_VSOCK is a socket family of Linux; this is darwin')
  t.match(await elsewhere('linux', 'riscv64'), /^node-vsock has no addon for linux-riscv64: neither .* nor .* is there; build it here, with a C compiler: npx node-vsock-build$/)

  const build = (env: Readonly<Record<string, string>>) => run('npx', ['--no-install', 'node-vsock-build'], env)
  t.match(await build({ CC: '/nowhere/cc' }), { all: /node-vsock: the C compiler "\/nowhere\/cc" cannot be run: .*ENOENT\n.*apt install gcc/, exitCode: 1 })
  t.match(await build({ CC: 'cc -include /nowhere.h' }), { all: /node-vsock: the addon does not compile \(exit code 1\): cc [^]*nowhere\.h/, exitCode: 1 })
  const alone = join(folder, 'node')
  await copyFile(process.execPath, alone)
  const headless = await run('sh', ['-c', 'chmod +x "$0" && npm_config_nodedir=/nowhere exec "$0" "$1"', alone, 'node_modules/node-vsock/lib/vsock/build.js'])
  t.match(headless, { all: /node-vsock: the headers of Node [\d.]+ were not found: \/nowhere\/include\/node is not there, .*\n.*nodejs\.org/, exitCode: 1 })
  const built = join(home, 'node_modules/node-vsock/build')
  t.same(existsSync(built) ? await readdir(built) : [], [], 'what fails leaves nothing')

  await rename(join(home, 'node_modules/node-vsock/prebuilt'), join(folder, 'prebuilt'))
  // npm hands on what it is configured with, which may be the folder of another Node.
  t.same(await build({ npm_config_nodedir: '/nowhere' }), { all: `node-vsock: built ${built}/vsock.node`, exitCode: 0 })
  t.match(await run(process.execPath, ['vsock.ts']), { all: loopback, exitCode: 0 }, 'what was built does the same')
  await writeFile(join(built, 'vsock.node'), 'no addon')
  t.match(await elsewhere('linux', process.arch), /vsock\.node does not load: .*; build it here, with a C compiler: npx node-vsock-build$/)
})

async function findTarball(name: string): Promise<string> {
  const file = (await readdir(folder)).find((file) => file.startsWith(`${name}-`) && file.endsWith('.tgz'))
  if (file === undefined) throw new Error(`${name} was not packed into ${folder}`)
  return join(folder, file)
}

async function lockedVersion(name: string): Promise<string> {
  const { packages } = JSON.parse(await readFile(join(checkout, 'package-lock.json'), 'utf8'))
  return packages[`node_modules/${name}`].version
}

/**
 * Writes what an installed package's README has: its first TypeScript, which runs by itself, as NAME.mts, all of it in its order
 * as NAME-all.mts, and its .proto as NAME.proto. Answers what the README says that it prints.
 */
async function writeExamples(part: string, name: string): Promise<string | undefined> {
  const readme = await readFile(join(home, 'node_modules', part, 'README.md'), 'utf8')
  const blocks = (language: string) => [...readme.matchAll(new RegExp(`^ *\`\`\`${language}\n([^]*?)^ *\`\`\``, 'gm'))].map(([, block]) => block ?? '')
  const code = blocks('ts')
  const files = { '.mts': code[0], '-all.mts': code.join(''), '.proto': blocks('proto')[0] }
  for (const [ending, text = ''] of Object.entries(files)) await writeFile(join(home, `${name}${ending}`), text)
  return blocks('text')[0]?.trimEnd()
}
