/** Whether the kernel killed a sandbox's processes for want of memory: a bare SIGKILL tells nobody what to do. */
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** What to add to a reason; undefined when no process of these cgroups was killed so. */
export async function outOfMemory(cgroupProcs: readonly string[]): Promise<string | undefined> {
  for (const directory of cgroupProcs.map((file) => dirname(file)))
    if ((await oomKills(directory)) > 0)
      return (
        "the pod's cgroup ran out of memory; raise the pod's memory limit (RuntimeClass.overhead is for the VMM and" +
        ' its helpers) or make the VM smaller with the annotation io.kuasar.memory-mib'
      )
  return undefined
}

/** cgroup v2 counts in memory.events, v1 in memory.oom_control. Source: cgroup-v2.rst, memory.rst. */
async function oomKills(directory: string): Promise<number> {
  for (const name of ['memory.events', 'memory.oom_control']) {
    const text = await readFile(join(directory, name), 'utf8').catch(() => '')
    const count = /^oom_kill (\d+)$/m.exec(text)?.[1]
    if (count !== undefined) return Number(count)
  }
  return 0
}
