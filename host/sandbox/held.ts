/**
 * Processes of a sandbox that do not run, though they live: a signal has stopped one, or a debugger holds it. Whoever waits
 * for the guest then waits for ever, and nobody but the process's parent is told by the kernel, so it is looked for in /proc.
 */
import type { OwnedResource } from './ownership.ts'
import { childrenOf, type ProcessStat, processStatNow } from './processes.ts'

export interface NamedProcess {
  /** As in the ledger: "qemu", "virtiofsd", … */
  readonly name: string
  readonly pid: number
  /** With the pid, its identity */
  readonly startTicks: string
}

export interface Held {
  readonly process: NamedProcess
  readonly by: 'signal' | 'debugger'
}

/** Those that were started, and what each has forked: virtiofsd's second half does its work. The same as long as all live. */
export async function processesOf(owned: readonly OwnedResource[]): Promise<readonly NamedProcess[]> {
  const started = owned.flatMap((resource): NamedProcess[] => {
    if (resource.kind !== 'process' || resource.pid === undefined || resource.startTicks === undefined) return []
    return [{ name: resource.name, pid: resource.pid, startTicks: resource.startTicks }]
  })
  const forked = started.map(async ({ name, pid }) => {
    // Without a free descriptor these go unwatched: no pod is to end for that.
    const children = await childrenOf(pid).catch(() => [])
    return children.map((child): NamedProcess => ({ name, pid: child.pid, startTicks: child.startTicks }))
  })
  return [...started, ...(await Promise.all(forked)).flat()]
}

/** The first that a signal has stopped ("T"), else the first that a debugger holds ("t"). */
export function findHeld(processes: readonly NamedProcess[]): Held | undefined {
  let debugged: Held | undefined
  for (const process of processes) {
    const stat = look(process.pid)
    if (stat?.startTicks !== process.startTicks) continue
    if (stat.state === 'T') return { process, by: 'signal' }
    if (stat.state === 't') debugged ??= { process, by: 'debugger' }
  }
  return debugged
}

/** One that fails (no descriptor is free) finds nobody: all who look, look again. */
function look(pid: number): ProcessStat | undefined {
  try {
    return processStatNow(pid)
  } catch {
    return undefined
  }
}

/** "the guest is frozen: virtiofsd (pid 7) was stopped by a signal" */
export const frozenReason = ({ process: { name, pid }, by }: Held): string =>
  `the guest is frozen: ${name} (pid ${pid}) ${by === 'signal' ? 'was stopped by a signal' : 'is held by a debugger'}`
