/** Makes build/toolchain from the lock. */
import { readLock } from './lock.ts'
import { makeToolchain } from './toolchain.ts'

await makeToolchain(await readLock())
