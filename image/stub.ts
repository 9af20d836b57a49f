/**
 * Stand-ins for libraries that a program of the image is linked to for something no guest has. Asked all the same, every
 * function answers -EOPNOTSUPP, which the program reports.
 *
 * - crun: libsystemd, for systemd's cgroup manager and journal (the agent has crun write to cgroupfs). The real one drags
 *   in five more libraries and makes up a third of each start of crun.
 * - ip: libbpf and libelf, for XDP programs. With zlib, which libelf needs, they are nearly as large as ip itself.
 */
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { runTool } from './toolchain.ts'

export interface Stub {
  /** soname */
  readonly library: string
  /** Version nodes of the library's symbols, as a linker sees them, start with it. */
  readonly versionPrefix: string
}

export const crunStubs: readonly Stub[] = [{ library: 'libsystemd.so.0', versionPrefix: 'LIBSYSTEMD_' }]
export const ipStubs: readonly Stub[] = [
  { library: 'libbpf.so.1', versionPrefix: 'LIBBPF_' },
  { library: 'libelf.so.1', versionPrefix: 'ELFUTILS_' },
]

const EOPNOTSUPP = 95
const COMPILER = 'gcc-12'

/** Builds the library with exactly the versioned functions that `program` imports. Answers its path. */
export async function makeStub(program: string, { library, versionPrefix }: Stub, directory: string): Promise<string> {
  const versions = await importedSymbols(program, versionPrefix)
  const names = [...versions.values()].flat()
  if (names.length === 0) throw new Error(`${program} imports nothing from ${library}: the stand-in is no longer needed`)
  const source = join(directory, `${library}.c`)
  const script = join(directory, `${library}.map`)
  const path = join(directory, library)
  await writeFile(source, names.map((name) => `long ${name}(void) { return -${EOPNOTSUPP}; }\n`).join(''))
  await writeFile(script, [...versions].map(([version, symbols]) => `${version} { global: ${symbols.join('; ')}; };\n`).join(''))
  const options = ['-shared', '-fPIC', '-Os', '-nostdlib', `-Wl,-soname,${library},--version-script=${script},--build-id=none,-z,relro`]
  await runTool([COMPILER, ...options, '-s', '-o', path, source], [directory])
  return path
}

/** Undefined symbols of the stubbed library, by version. */
async function importedSymbols(program: string, versionPrefix: string): Promise<Map<string, string[]>> {
  const stdout = await runTool(['objdump', '-T', program], [dirname(program)])
  const versions = new Map<string, string[]>()
  for (const match of stdout.matchAll(/\*UND\*.*\(([\w.]+)\)\s+(\w+)$/gm)) {
    const [, version = '', name = ''] = match
    if (version.startsWith(versionPrefix)) versions.set(version, [...(versions.get(version) ?? []), name].sort())
  }
  return new Map([...versions].sort(([a], [b]) => (a < b ? -1 : 1)))
}
