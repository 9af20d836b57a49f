/** `make image-lock`: takes the versions that the machine's index offers now into image/lock.json. */
import { writeFile } from 'node:fs/promises'
import { exactDependency, offered, refreshEmptyIndex, suite } from './apt.ts'
import { KERNEL_META_PACKAGE, type Lock, readLock, shippedPackages } from './lock.ts'
import { lockFile } from './paths.ts'

await refreshEmptyIndex([KERNEL_META_PACKAGE])
const before = await readLock().catch(() => undefined)
const packages = await offered([await exactDependency(KERNEL_META_PACKAGE), ...shippedPackages])
const lock: Lock = { suite: await suite(), packages: packages.sort((a, b) => (a.name < b.name ? -1 : 1)) }
await writeFile(lockFile, `${JSON.stringify(lock, undefined, 2)}\n`)

for (const { name, version } of lock.packages) {
  const old = before?.packages.find((entry) => entry.name === name)?.version
  console.log(`${name.padEnd(34)} ${version}${old === version ? '' : `  (was ${old ?? 'not locked'})`}`)
}
