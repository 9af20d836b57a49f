/** `make image-lock`: takes the versions that the machine's index offers now into image/lock.json. */
import { writeFile } from 'node:fs/promises'
import { refreshEmptyIndex } from './apt.ts'
import { KERNEL_META_PACKAGE, readLock } from './lock.ts'
import { offeredLock } from './packages.ts'
import { lockFile } from './paths.ts'

await refreshEmptyIndex([KERNEL_META_PACKAGE])
const before = await readLock().catch(() => undefined)
const lock = await offeredLock()
await writeFile(lockFile, `${JSON.stringify(lock, undefined, 2)}\n`)

for (const part of ['packages', 'toolchain'] as const) {
  for (const { name, version } of lock[part]) {
    const old = before?.[part].find((entry) => entry.name === name)?.version
    console.log(`${name.padEnd(34)} ${version}${old === version ? '' : `  (was ${old ?? 'not locked'})`}`)
  }
}
