/** Locked packages as unpacked trees. */
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { download, exactDependency, offered, refreshEmptyIndex, refreshIndex, suite } from './apt.ts'
import { KERNEL_META_PACKAGE, type Lock, type LockedPackage, isKernel, shippedPackages, toolchainPackages } from './lock.ts'
import { packageCache } from './paths.ts'

/** Set to 1 to fail, rather than warn, when the index no longer offers a locked version. */
export const STRICT_ENV = 'KUASAR_IMAGE_STRICT'

export interface Resolved {
  readonly packages: readonly LockedPackage[]
  /** False when some package is not the lock's, because the index no longer offers that. */
  readonly locked: boolean
}

/** An archive's file that is not the one the lock was made from, though its version is. No build goes on with it. */
class ChecksumError extends Error {
  constructor({ name, version, sha256 }: LockedPackage, found: string) {
    super(`${name} ${version} has sha256 ${found}, expected ${sha256}: the lock is damaged, or this mirror is not to be trusted`)
  }
}

/** Packages of the lock, all in the cache and checked; says when the index offers newer ones. */
export async function fetchPackages(wanted: readonly LockedPackage[], cache = packageCache): Promise<Resolved> {
  await mkdir(cache, { recursive: true })
  const missing: LockedPackage[] = []
  for (const entry of wanted) if (!(await isCached(entry, cache))) missing.push(entry)
  if (missing.length === 0) return { packages: wanted, locked: true }
  await refreshEmptyIndex([KERNEL_META_PACKAGE])
  try {
    return await fetchLocked(wanted, missing, cache)
  } catch (error) {
    if (error instanceof ChecksumError) throw error
    // An index older than the archive names files that are gone.
    await refreshIndex()
  }
  const newer = await offeredInstead(wanted)
  try {
    return await fetchLocked(wanted, missing, cache)
  } catch (error) {
    if (error instanceof ChecksumError) throw error
    if (newer.length === 0 || process.env[STRICT_ENV] === '1') throw new Error(gone(missing), { cause: error })
  }
  console.log('image: WARNING: apt no longer offers what the lock names; building from what it offers, which is not the pinned image')
  const packages = wanted.map((entry) => newer.find(([old]) => old === entry)?.[1] ?? entry)
  await fetch(packages, cache)
  return { packages, locked: false }
}

/** Fetches what is missing, and says what the index offers beyond the lock. */
async function fetchLocked(wanted: readonly LockedPackage[], missing: readonly LockedPackage[], cache: string): Promise<Resolved> {
  for (const [old, now] of await offeredInstead(wanted)) {
    console.log(`image: apt offers ${now.name} ${now.version}, the lock has ${old.name} ${old.version}; \`make image-lock\` takes it`)
  }
  await fetch(missing, cache)
  return { packages: wanted, locked: true }
}

function gone(missing: readonly LockedPackage[]): string {
  const names = missing.map(({ name, version }) => `${name} ${version}`).join(', ')
  return `cannot download ${names}: run apt-get update, and if apt no longer offers them, make image-lock`
}

/** Locked packages beside what the index would install in their place, where that is another version. */
async function offeredInstead(locked: readonly LockedPackage[]): Promise<[LockedPackage, LockedPackage][]> {
  const names = locked.map(async (entry) => (isKernel(entry) ? await exactDependency(KERNEL_META_PACKAGE) : entry.name))
  const now = await offered(await Promise.all(names))
  return locked.flatMap((entry, index) => {
    const found = now[index]
    const same = found === undefined || (found.name === entry.name && found.version === entry.version)
    return same ? [] : [[entry, found] as [LockedPackage, LockedPackage]]
  })
}

async function offeredByName(names: readonly string[]): Promise<LockedPackage[]> {
  return (await offered(names)).sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** The lock that names what the index offers now. */
export async function offeredLock(): Promise<Lock> {
  return {
    suite: await suite(),
    packages: await offeredByName([await exactDependency(KERNEL_META_PACKAGE), ...shippedPackages]),
    toolchain: await offeredByName(Object.keys(toolchainPackages)),
  }
}

/** Downloads what the cache lacks. */
async function fetch(packages: readonly LockedPackage[], cache: string): Promise<void> {
  const wanted: LockedPackage[] = []
  for (const entry of packages) if (!(await isCached(entry, cache))) wanted.push(entry)
  if (wanted.length === 0) return
  const directory = await mkdtemp(join(cache, 'download-'))
  try {
    await download(wanted, directory)
    const files = await readdir(directory)
    for (const entry of wanted) {
      const file = files.find((name) => name.startsWith(`${entry.name}_`))
      if (file === undefined) throw new Error(`apt-get downloaded no file of ${entry.name}`)
      const found = await digest(join(directory, file))
      if (found !== entry.sha256) throw new ChecksumError(entry, found)
      await rename(join(directory, file), cached(entry, cache))
    }
  } finally {
    await rm(directory, { recursive: true })
  }
}

/** Unpacks the packages over each other into `directory`. */
export async function unpack(packages: readonly LockedPackage[], directory: string, cache = packageCache): Promise<void> {
  await mkdir(directory, { recursive: true })
  for (const entry of packages) await execa('dpkg-deb', ['-x', cached(entry, cache), directory])
}

async function isCached(entry: LockedPackage, cache: string): Promise<boolean> {
  return await digest(cached(entry, cache)).then((found) => found === entry.sha256, () => false)
}

function cached({ name, sha256 }: LockedPackage, cache: string): string {
  return join(cache, `${name}-${sha256.slice(0, 16)}.deb`)
}

export async function digest(path: string): Promise<string> {
  return createHash('sha256').update(await readFile(path)).digest('hex')
}
