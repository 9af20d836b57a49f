/** The machine's own package index, through apt's ordinary commands. */
import { readFile } from 'node:fs/promises'
import { execa } from 'execa'
import type { LockedPackage } from './lock.ts'

/** Seconds to wait for another apt to finish. */
const APT_LOCK_SECONDS = 600

/** The version of each package the index would install now. Errors name a package it does not know. */
export async function offered(names: readonly string[]): Promise<LockedPackage[]> {
  const { stdout } = await execa('apt-cache', ['show', '--no-all-versions', ...names])
  const found = new Map(stdout.split('\n\n').map(parseStanza).map((entry) => [entry.name, entry]))
  return names.map((name) => {
    const entry = found.get(name)
    if (entry === undefined) throw new Error(`apt's index has no package ${name}; run apt-get update, or name it in image/lock.ts`)
    return entry
  })
}

/** The one package that a meta package depends on with an exact version. */
export async function exactDependency(name: string): Promise<string> {
  const { stdout } = await execa('apt-cache', ['show', '--no-all-versions', name])
  const dependency = /^Depends: (\S+) \(= /m.exec(stdout)?.[1]
  if (dependency === undefined) throw new Error(`the package ${name} depends on no exact version of another`)
  return dependency
}

/** Downloads these versions into `directory`. apt checks them against the signed index. */
export async function download(packages: readonly LockedPackage[], directory: string): Promise<void> {
  const wanted = packages.map(({ name, version }) => `${name}=${version}`)
  await execa('apt-get', ['download', '-o', 'APT::Sandbox::User=root', '-q', ...wanted], { cwd: directory })
}

/** Installs what the build itself runs, where it is missing, and says so. */
export async function ensureInstalled(packages: readonly string[]): Promise<void> {
  const { stdout } = await execa('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Abbrev}\n', ...packages], { reject: false })
  const installed = new Set(stdout.split('\n').flatMap((line) => (line.includes(' ii') ? [line.split(' ')[0]] : [])))
  const missing = packages.filter((name) => !installed.has(name))
  if (missing.length === 0) return
  console.log(`image: installing ${missing.join(', ')} with apt-get`)
  await refreshEmptyIndex(missing)
  const options = ['-o', `DPkg::Lock::Timeout=${APT_LOCK_SECONDS}`, '-y', '-q', '--no-install-recommends']
  await execa('apt-get', ['install', ...options, ...missing], { env: { DEBIAN_FRONTEND: 'noninteractive' }, stdout: 'ignore' })
}

/** A machine's index may be empty (container images ship none); then it is fetched first. */
export async function refreshEmptyIndex(names: readonly string[]): Promise<void> {
  const { exitCode } = await execa('apt-cache', ['show', '--no-all-versions', ...names], { reject: false, stdio: 'ignore' })
  if (exitCode !== 0) await refreshIndex()
}

export async function refreshIndex(): Promise<void> {
  await execa('apt-get', ['update', '-q'], { stdout: 'ignore' })
}

/** "bookworm", from os-release(5). */
export async function suite(): Promise<string> {
  const name = /^VERSION_CODENAME=(\S+)$/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1]
  if (name === undefined) throw new Error('/etc/os-release names no VERSION_CODENAME: the image is built on Debian')
  return name
}

function parseStanza(stanza: string): LockedPackage {
  const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(stanza)?.[1] ?? ''
  return {
    name: field('Package'),
    version: field('Version'),
    architecture: field('Architecture'),
    source: field('Source') || field('Package'),
    sha256: field('SHA256'),
    sizeBytes: Number(field('Size')),
  }
}
