/** Pods' cgroups, made before a pod runs and removed after it, as the kubelet does. */

import { existsSync } from 'node:fs'
import { mkdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { PodCgroups } from '#test/cri/client.ts'
import { handDownControllers, isUnified } from './cgroup.ts'
import type { TestNode } from './node.ts'
import { poll } from './poll.ts'

/** How long the kernel and containerd may take to have emptied the cgroup of a removed pod. */
const emptyMsMax = 2_000

/** `cgroupParent` is a path below the node's cgroup in every hierarchy. */
export function podCgroups(node: TestNode): PodCgroups {
  return {
    async make(cgroupParent) {
      for (const hierarchy of node.cgroups) {
        let path = hierarchy
        for (const name of cgroupParent.split('/').filter((part) => part !== '')) {
          if (isUnified(hierarchy)) await handDownControllers(path)
          path = join(path, name)
          await mkdir(path, { recursive: true })
        }
      }
    },
    /** Kills nothing: a cgroup with processes, or with cgroups below it, stays, and is a leak to report. */
    async remove(cgroupParent) {
      for (const hierarchy of node.cgroups) {
        await poll(emptyMsMax, () => rmdir(join(hierarchy, cgroupParent)).then(() => true, isGone))
      }
    },
  }
}

export interface PodLimits {
  readonly memoryBytes?: number
  readonly pids?: number
}

/** Writes limits to a pod's cgroup, as the kubelet does before the pod. */
export async function limitPod(node: TestNode, cgroupParent: string, { memoryBytes, pids }: PodLimits): Promise<void> {
  // The first two are v2's and v1's name for one.
  const values = { 'memory.max': memoryBytes, 'memory.limit_in_bytes': memoryBytes, 'pids.max': pids }
  for (const [name, value] of Object.entries(values))
    for (const file of node.cgroups.map((hierarchy) => join(hierarchy, cgroupParent, name)))
      if (value !== undefined && existsSync(file)) await writeFile(file, String(value))
}

function isGone(error: unknown): true | undefined {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT' ? true : undefined
}
