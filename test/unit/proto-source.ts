/**
 * The upstream .proto files, as Debian ships them with the containerd that the test node runs. They are fetched for
 * the comparison and kept under build/; none is part of this repository.
 */
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import { debianMirror } from '#test/node/mirror.ts'
import { privateApt } from '#test/support/private-apt.ts'

const suite = 'forky'

/** Package → the directory in it that import paths start from. */
const packages = {
  'golang-github-containerd-containerd-api-dev': 'usr/share/gocode/src',
  'golang-github-containerd-cgroups-dev': 'usr/share/gocode/src',
  'golang-k8s-cri-api-dev': 'usr/share/gocode/src',
  'python3-googleapis-common-protos': 'usr/lib/python3/dist-packages',
} as const

const buildDir = resolve(import.meta.dirname, '../../build/proto-source')
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'

export interface ProtoSource {
  /** Where import paths start. */
  readonly directories: readonly string[]
  /** "golang-k8s-cri-api-dev_0.36.4-1_all.deb" and so on. */
  readonly packages: readonly string[]
}

/** The upstream files, downloaded on first use (about 11 MB, mostly Debian's index). Needs apt, dpkg and a network. */
export async function protoSource(): Promise<ProtoSource> {
  const directory = join(buildDir, suite)
  if (!existsSync(directory)) await download(directory)
  const roots = new Set(Object.values(packages))
  return {
    directories: [...roots].map((root) => join(directory, root)),
    packages: (await readdir(directory)).filter((name) => name.endsWith('.deb')),
  }
}

/** Complete or not there at all: two test runs may do this at once. */
async function download(directory: string): Promise<void> {
  await mkdir(buildDir, { recursive: true })
  const work = await mkdtemp(join(buildDir, 'new-'))
  try {
    const options = await aptOptions(work)
    await execa('apt-get', [...options, 'update'])
    await execa('apt-get', [...options, 'download', ...Object.keys(packages)], { cwd: work })
    for (const name of await readdir(work)) {
      if (name.endsWith('.deb')) await execa('dpkg-deb', ['-x', join(work, name), work])
    }
    await rm(join(work, 'apt'), { recursive: true })
    await rename(work, directory)
  } catch (error) {
    await rm(work, { recursive: true, force: true })
    if (!existsSync(directory)) throw error
  }
}

/** An apt of its own: another suite's lists must not reach the machine's. */
async function aptOptions(work: string): Promise<string[]> {
  const signedBy = existsSync(keyring) ? `signed-by=${keyring} ` : ''
  const settings = {
    ...(await privateApt(join(work, 'apt'), `deb [${signedBy}target=Packages] ${await debianMirror()} ${suite} main`)),
    // A frozen or lagging mirror serves Release files past their Valid-Until date.
    'Acquire::Check-Valid-Until': 'false',
    'APT::Sandbox::User': '',
  }
  return Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])
}
