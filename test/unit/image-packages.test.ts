/** What the lock promises, against a Debian archive of our own: apt, its index and its downloads are the real ones. */
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { privateApt } from '#test/support/private-apt.ts'
import { refreshIndex } from '../../image/apt.ts'
import { KERNEL_META_PACKAGE, type Lock, type LockedPackage, isKernel, shippedPackages, toolchainOf, toolchainPackages } from '../../image/lock.ts'
import { STRICT_ENV, digest, fetchPackages, offeredLock } from '../../image/packages.ts'
import { makeToolchain, readToolchain } from '../../image/toolchain.ts'

const work = await mkdtemp(join(tmpdir(), 'kuasar-packages-'))
t.teardown(() => rm(work, { recursive: true }))
const cache = join(work, 'cache')
const archive = join(work, 'archive')

/** An apt of this process's own, that knows our archive alone. */
async function useArchive(): Promise<void> {
  const apt = join(work, 'apt')
  const settings = {
    ...(await privateApt(apt, `deb [trusted=yes] copy:${archive} ./`)),
    'Dir::Etc::main': '/dev/null',
    'Dir::Etc::parts': '/dev/null',
    'APT::Sandbox::User': 'root',
  }
  await writeFile(join(apt, 'apt.conf'), Object.entries(settings).map(([name, value]) => `${name} "${value}";\n`).join(''))
  process.env['APT_CONFIG'] = join(apt, 'apt.conf')
}

interface Offer {
  readonly kernel: string
  /** Of the packages that are not at version 1. */
  readonly versions?: Readonly<Record<string, string>>
}

/** Fills the archive with what the image is made from: empty packages, but packages. */
async function publish({ kernel, versions = {} }: Offer): Promise<void> {
  await rm(archive, { recursive: true, force: true })
  await mkdir(archive)
  const meta = await stanza(KERNEL_META_PACKAGE, '1', `Depends: ${kernel} (= 1)\n`)
  const others = await Promise.all([kernel, ...shippedPackages, ...Object.keys(toolchainPackages)].map((name) => stanza(name, versions[name] ?? '1')))
  await writeFile(join(archive, 'Packages'), [meta, ...others].join('\n'))
}

/** Builds one package into the archive. Answers what an index says of it. */
async function stanza(name: string, version: string, more = ''): Promise<string> {
  const control = `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\nMaintainer: nobody <nobody@localhost>\n${more}Description: empty\n`
  const tree = join(work, 'trees', `${name}-${version}`)
  const file = join(archive, `${name}_${version}_amd64.deb`)
  await mkdir(join(tree, 'DEBIAN'), { recursive: true })
  await writeFile(join(tree, 'DEBIAN/control'), control)
  // Published again, it is the same file.
  await execa('dpkg-deb', ['--root-owner-group', '--build', tree, file], { env: { SOURCE_DATE_EPOCH: '0' } })
  const sizeBytes = (await readFile(file)).length
  return `${control}Filename: ./${name}_${version}_amd64.deb\nSize: ${sizeBytes}\nSHA256: ${await digest(file)}\n`
}

/** As `make image-lock` has it. */
async function takeLock(): Promise<Lock> {
  await refreshIndex()
  return await offeredLock()
}

const versions = (packages: readonly LockedPackage[]) => packages.map(({ name, version }) => `${name} ${version}`)

const OLD_KERNEL = 'linux-image-6.1.0-1-cloud-amd64'
const NEW_KERNEL = 'linux-image-6.1.0-2-cloud-amd64'

await useArchive()
await publish({ kernel: OLD_KERNEL })
const lock = await takeLock()
t.equal(lock.packages.length, shippedPackages.length + 1)
t.same(lock.toolchain.map(({ name }) => name), Object.keys(toolchainPackages).sort())
t.beforeEach(() => rm(cache, { recursive: true, force: true }))

t.test('what is locked is fetched, once, and a damaged copy again', async (t) => {
  t.same(await fetchPackages(lock.packages, cache), { packages: lock.packages, locked: true })
  const files = await readdir(cache)
  t.equal(files.length, lock.packages.length, 'and nothing else is kept')
  const [file = ''] = files
  const content = await readFile(join(cache, file))
  await writeFile(join(cache, file), 'damaged')
  t.same(await fetchPackages(lock.packages, cache), { packages: lock.packages, locked: true })
  t.ok((await readFile(join(cache, file))).equals(content))
})

t.test('a wrong checksum ends the build: package, found, expected', async (t) => {
  const wrong = 'e'.repeat(64)
  const log = t.capture(console, 'log')
  for (const victim of ['libmnl0', OLD_KERNEL]) {
    await rm(cache, { recursive: true, force: true })
    const right = lock.packages.find(({ name }) => name === victim)?.sha256
    const packages = lock.packages.map((entry) => (entry.name === victim ? { ...entry, sha256: wrong } : entry))
    const message = `${victim} 1 has sha256 ${right}, expected ${wrong}: the lock is damaged, or this mirror is not to be trusted`
    await t.rejects(fetchPackages(packages, cache), { message })
    t.notOk((await readdir(cache)).some((name) => name.startsWith(`${victim}-`) || name.startsWith('download')), 'nothing of it is kept')
  }
  t.same(log(), [], 'and nobody is told to take it')
})

t.test('when Debian has moved on', async (t) => {
  await fetchPackages(lock.packages, cache)
  await publish({ kernel: NEW_KERNEL, versions: { libmnl0: '2' } })
  t.same(await fetchPackages(lock.packages, cache), { packages: lock.packages, locked: true }, 'what was fetched before is as good')
  await rm(cache, { recursive: true })

  await t.test('the build fails where it must be the pinned image, and says how to renew the lock', async (t) => {
    process.env[STRICT_ENV] = '1'
    t.teardown(() => delete process.env[STRICT_ENV])
    const log = t.capture(console, 'log')
    await t.rejects(fetchPackages(lock.packages, cache), { message: /^cannot download .*libmnl0 1.*: run apt-get update, .* make image-lock$/ })
    const lines = log().flatMap(({ args }) => args)
    t.ok(lines.includes('image: apt offers libmnl0 2, the lock has libmnl0 1; `make image-lock` takes it'))
    t.ok(lines.includes(`image: apt offers ${NEW_KERNEL} 1, the lock has ${OLD_KERNEL} 1; \`make image-lock\` takes it`))
  })

  await t.test('or takes what is offered, warns, and does not call it locked', async (t) => {
    const log = t.capture(console, 'log')
    const { packages, locked } = await fetchPackages(lock.packages, cache)
    t.equal(locked, false)
    const expected = lock.packages.map((entry) => (isKernel(entry) ? `${NEW_KERNEL} 1` : `${entry.name} ${entry.name === 'libmnl0' ? 2 : 1}`))
    t.same(versions(packages), expected)
    t.match(log().at(-1)?.args, [/^image: WARNING: /])
  })

  await t.test('but no wrong checksum comes in that way', async (t) => {
    t.capture(console, 'log')
    const packages = lock.packages.map((entry) => (entry.name === 'libmd0' ? { ...entry, sha256: 'e'.repeat(64) } : entry))
    await t.rejects(fetchPackages(packages, cache), { message: /^libmd0 1 has sha256 / })
  })

  await t.test('make image-lock takes it', async (t) => {
    const renewed = await takeLock()
    t.same(await fetchPackages(renewed.packages, cache), { packages: renewed.packages, locked: true })
  })
})

t.test('the toolchain is held to the lock as the rest is', async (t) => {
  const directory = join(work, 'toolchain')
  await publish({ kernel: OLD_KERNEL })
  await refreshIndex()
  const packages = toolchainOf(lock)
  const wrong = { ...lock, toolchain: lock.toolchain.map((entry) => (entry.name === 'libc6-dev' ? { ...entry, sha256: 'e'.repeat(64) } : entry)) }

  await t.test('a wrong checksum ends the build', async (t) => {
    await t.rejects(makeToolchain(wrong, directory, cache), { message: /^libc6-dev 1 has sha256 .*, expected e{64}: / })
    t.notOk((await readdir(work)).some((name) => name.startsWith('toolchain')), 'nothing is left')
  })

  await t.test('made from the lock, it is no other lock’s', async (t) => {
    await makeToolchain(lock, directory, cache)
    t.same(await readToolchain(lock, directory), { packages, locked: true })
    await t.rejects(readToolchain(wrong, directory), { message: /packages\.json is of another lock than image\/lock\.json/ })
  })

  await t.test('when Debian has moved on, it is what is offered, and not called locked', async (t) => {
    t.capture(console, 'log')
    await rm(cache, { recursive: true, force: true })
    await publish({ kernel: OLD_KERNEL, versions: { 'gcc-12': '2' } })
    await makeToolchain(lock, directory, cache)
    const toolchain = await readToolchain(lock, directory)
    t.equal(toolchain.locked, false)
    t.same(versions(toolchain.packages), packages.map(({ name }) => `${name} ${name === 'gcc-12' ? 2 : 1}`))
    process.env[STRICT_ENV] = '1'
    t.teardown(() => delete process.env[STRICT_ENV])
    await t.rejects(readToolchain(lock, directory), { message: /is not the lock's, which apt did not offer/ })
  })
})
