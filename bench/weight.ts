/** Right of way: on a machine that does other work, what is measured comes first. */
import { existsSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { constants, setPriority } from 'node:os'
import { join } from 'node:path'
import { isErrno } from '#shared/os/error.ts'

/** The most a cgroup may have, v1 and v2. Source: kernel/sched/core.c (MAX_SHARES), Documentation/admin-guide/cgroup-v2.rst. */
const largest = { 'cpu.shares': '262144', 'cpu.weight': '10000' } as const

/** A session's processes are weighed as one on most machines, whatever their own priority. Source: sched(7), "The autogroup feature". */
const AUTOGROUP = '/proc/self/autogroup'

/** Gives the cgroups the largest share of the CPU, and this process and its children, which take the time, the highest priority. */
export async function preferred(cgroups: readonly string[] = []): Promise<void> {
  for (const cgroup of cgroups) {
    for (const [file, value] of Object.entries(largest)) {
      if (existsSync(join(cgroup, file))) await writeFile(join(cgroup, file), value)
    }
  }
  try {
    setPriority(constants.priority.PRIORITY_HIGHEST)
    if (!existsSync(AUTOGROUP)) return
    writeFileSync(AUTOGROUP, `${constants.priority.PRIORITY_HIGHEST}`)
    process.once('exit', () => writeFileSync(AUTOGROUP, `${constants.priority.PRIORITY_NORMAL}`))
  } catch (error) {
    // Without CAP_SYS_NICE nobody may; samples only scatter more.
    if (!isErrno(error, 'EACCES') && !isErrno(error, 'EPERM')) throw error
  }
}
