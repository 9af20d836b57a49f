/** Debian in a directory, by mmdebstrap. */

import { mkdir, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { execa } from 'execa'
import { debianMirror } from './mirror.ts'

export interface DebianRecipe {
  readonly suite: string
  readonly packages: readonly string[]
  /** Of mmdebstrap */
  readonly options: readonly string[]
}

/** Installs the packages into `directory`, whatever was there before. Needs root, apt and a Debian mirror. */
export async function buildDebian(recipe: DebianRecipe, directory: string, say: (line: string) => void): Promise<void> {
  await installMmdebstrap(say)
  const mirror = await debianMirror()
  await rm(directory, { recursive: true, force: true })
  await mkdir(dirname(directory), { recursive: true })
  const include = `--include=${recipe.packages.join(',')}`
  const result = await execa('mmdebstrap', [...recipe.options, include, recipe.suite, directory, mirror], {
    reject: false,
    all: true,
    // mmdebstrap copies the environment's temporary directory into the root's maintainer scripts.
    env: { TMPDIR: '/tmp' },
  })
  if (result.failed) throw new Error(`mmdebstrap could not build ${directory}:\n${result.all ?? result.message}`)
}

/** `name version` of every package in the root, one per line: what a failure report needs to be repeatable. */
export async function packageVersions(root: string): Promise<string> {
  const format = '${Package} ${Version}\\n'
  const { stdout } = await execa('dpkg-query', [`--admindir=${root}/var/lib/dpkg`, '--show', `--showformat=${format}`])
  return `${stdout}\n`
}

async function installMmdebstrap(say: (line: string) => void): Promise<void> {
  const { exitCode } = await execa('mmdebstrap', ['--version'], { reject: false })
  if (exitCode === 0) return
  say('installing mmdebstrap')
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  await execa('apt-get', ['update'], { stdio: ['ignore', 'ignore', 'pipe'] })
  const install = ['install', '--yes', '--no-install-recommends', 'mmdebstrap']
  await execa('apt-get', install, { env, stdio: ['ignore', 'ignore', 'pipe'] })
}
