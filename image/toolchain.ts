/**
 * The compilers and tools that make the image: locked packages, unpacked into a root of their own, and run in it. What
 * the machine has in their place does not matter.
 */
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { execa } from 'execa'
import { z } from 'zod'
import { type Lock, lockedPackage, toolchainOf } from './lock.ts'
import { type Resolved, STRICT_ENV, fetchPackages, unpack } from './packages.ts'
import { checkout, packageCache, toolchainDirectory } from './paths.ts'

const resolved = z.strictObject({ packages: z.array(lockedPackage), locked: z.boolean() })

/** Unpacks the toolchain of `lock` into `directory`, replaced as a whole. */
export async function makeToolchain(lock: Lock, directory = toolchainDirectory, cache = packageCache): Promise<void> {
  await mkdir(dirname(directory), { recursive: true })
  const work = await mkdtemp(`${directory}-work-`)
  try {
    const toolchain = await fetchPackages(toolchainOf(lock), cache)
    const root = join(work, 'root')
    await unpack(toolchain.packages, root, cache)
    await mkdir(join(root, 'tmp'))
    await writeFile(join(work, RECORD), `${JSON.stringify(toolchain, undefined, 2)}\n`)
    await rm(directory, { recursive: true, force: true })
    await rename(work, directory)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/** What the toolchain in `directory` was unpacked from. Throws when that is not what `lock` asks for. */
export async function readToolchain(lock: Lock, directory = toolchainDirectory): Promise<Resolved> {
  const path = join(directory, RECORD)
  const toolchain = resolved.parse(JSON.parse(await readFile(path, 'utf8')))
  if (toolchain.locked && !isDeepStrictEqual(toolchain.packages, toolchainOf(lock))) {
    throw new Error(`${path} is of another lock than image/lock.json; \`make image\` makes it anew`)
  }
  if (!toolchain.locked && process.env[STRICT_ENV] === '1') {
    throw new Error(`${directory} is not the lock's, which apt did not offer; remove it to try again, or make image-lock`)
  }
  return toolchain
}

const RECORD = 'packages.json'

/** Runs a program of the toolchain. It sees the checkout and the directories `sees`, where they are. Answers its output. */
export async function runTool(command: readonly [string, ...string[]], sees: readonly string[]): Promise<string> {
  return (await execa('unshare', inToolchain(command, sees))).stdout
}

/**
 * Arguments of unshare(1) to run `command` in the toolchain's root, from the checkout. The mounts are seen by that process
 * alone and end with it; no variable of the environment gets in.
 */
export function inToolchain(command: readonly string[], sees: readonly string[] = []): string[] {
  const root = join(toolchainDirectory, 'root')
  return ['--mount', '--propagation', 'private', 'sh', '-c', ENTER, 'sh', root, checkout, ...sees, '--', ...command]
}

const ENTER = `set -e
root=$1 checkout=$2
shift
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --bind "$1" "$root$1"; shift; done
shift
exec env -i PATH=/usr/bin:/sbin unshare --root="$root" --wd="$checkout" "$@"`
