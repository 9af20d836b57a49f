/**
 * How many processes and threads the pod's cgroup parent lets in, which the kubelet writes there (`podPidsLimit`) when it makes it,
 * before the pod. On the host that counts the threads of the VM and its helpers; the containers' processes are the guest's to count.
 * The files are as createPodCgroup returns them. Source: cgroup-v2.rst, cgroup-v1/pids.rst.
 */
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RuntimeError, explain } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

/**
 * 0 for no limit, or none that is counted: the controller is not in use, or the parent is a root. Errors: INTERNAL for a file that
 * cannot be read, or says something else.
 */
export async function podPidsLimit(cgroupProcs: readonly string[]): Promise<number> {
  for (const path of cgroupProcs.map((file) => join(parentOf(file), 'pids.max'))) {
    const text = await readFile(path, 'utf8').catch((cause: unknown) => {
      if (isErrno(cause, 'ENOENT')) return undefined
      throw new RuntimeError('INTERNAL', `the pod's limit of processes, ${path}, cannot be read: ${explain(cause)}`, { cause })
    })
    if (text === undefined) continue
    const limit = text.trim()
    if (limit === 'max') return 0
    if (!/^\d{1,9}$/.test(limit)) throw new RuntimeError('INTERNAL', `${path} is ${JSON.stringify(limit)}: expected a number of processes, or "max"`)
    // A limit of none at all, set after the VM had its threads, would read as no limit.
    return Math.max(1, Number(limit))
  }
  return 0
}

/** What to add to a reason; undefined when the VM and its helpers were never refused a process or thread. */
export async function outOfPids(cgroupProcs: readonly string[]): Promise<string | undefined> {
  const limit = await podPidsLimit(cgroupProcs).catch(() => 0)
  if (limit === 0) return undefined
  for (const file of cgroupProcs)
    if ((await refusals(dirname(file))) > 0 || (await refusals(parentOf(file))) > 0)
      return (
        `the pod's cgroup lets in ${limit} processes and threads, and was full; raise the kubelet's podPidsLimit: the VM and its` +
        ' helpers need some 20 for themselves'
      )
  return undefined
}

/** Counted where the fork was, before Linux 6.11 and on v1, or where the limit is. */
async function refusals(directory: string): Promise<number> {
  const text = await readFile(join(directory, 'pids.events'), 'utf8').catch(() => '')
  return Number(/^max (\d+)$/m.exec(text)?.[1] ?? 0)
}

const parentOf = (cgroupProcs: string): string => dirname(dirname(cgroupProcs))
