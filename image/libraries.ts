/** Which shared libraries programs of the image need, from which package files. */
import { readFile, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isElf, neededLibraries } from './elf.ts'

/** Where Debian keeps libraries, below a package's root. Both spellings exist until all packages have merged /usr. */
const LIBRARY_DIRECTORIES = ['lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu', 'lib64']

/** Every library of unpacked packages: soname to file. */
export async function findLibraries(packagesRoot: string): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  for (const directory of LIBRARY_DIRECTORIES) {
    const files = await readdir(join(packagesRoot, directory)).catch(() => [])
    for (const file of files) if (file.includes('.so')) found.set(file, join(packagesRoot, directory, file))
  }
  return found
}

/** The libraries that the programs need, directly and through others, by soname. Errors name what is missing and for whom. */
export async function libraryClosure(programs: readonly string[], libraries: ReadonlyMap<string, string>): Promise<Map<string, string>> {
  const closure = new Map<string, string>()
  const queue = [...programs]
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    const content = await readFile(file)
    if (!isElf(content)) throw new Error(`${file} is not an x86-64 ELF file`)
    for (const name of neededLibraries(content)) {
      if (closure.has(name)) continue
      const path = libraries.get(name)
      if (path === undefined) throw new Error(`${basename(file)} needs ${name}, which no package of the image's lock brings`)
      closure.set(name, path)
      queue.push(path)
    }
  }
  return closure
}
