/**
 * How each kind of owned resource is undone: after a failure, at the end of a sandbox, and by recovery after a crash,
 * which may meet it half made or half undone. Every executor tolerates what is gone already.
 */
import { rm } from 'node:fs/promises'
import { RuntimeError } from '#shared/errors.ts'
import { removeTaps } from '../network/tap.ts'
import { removeCgroup } from './cgroup.ts'
import { mountsBelow, unmountAll } from './mounts.ts'
import type { OwnedLink, OwnedMount, OwnedResource } from './ownership.ts'
import { endProcess, findMarked } from './processes.ts'

/** Undoes resources in this order. Yields one outcome per resource, an error or nothing. */
export type Undo = (resources: readonly OwnedResource[], sandboxId: string) => Promise<readonly (Error | undefined)[]>

export const undo: Undo = async (resources, sandboxId) => {
  const outcomes: (Error | undefined)[] = []
  while (outcomes.length < resources.length) {
    // Neighbours that one process can undo go together.
    const rest = resources.slice(outcomes.length)
    const mounts = rest.slice(0, leading(rest, isMount)).filter(isMount)
    const links = rest.slice(0, leading(rest, isLink)).filter(isLink)
    const [first] = rest
    const outcome = await attempt(
      mounts.length > 0 ? removeMounts(mounts) : links.length > 0 ? removeLinks(links) : first && undoOne(first, sandboxId),
    )
    outcomes.push(...Array.from({ length: Math.max(1, mounts.length, links.length) }, () => outcome))
  }
  return outcomes
}

const isMount = (resource: OwnedResource): resource is OwnedMount => resource.kind === 'mount'
const isLink = (resource: OwnedResource): resource is OwnedLink => resource.kind === 'link'

async function removeMounts(mounts: readonly OwnedMount[]): Promise<void> {
  await unmountAll(mounts.map(({ target }) => target))
  for (const { point } of mounts) if (point !== undefined) await removeTree(point)
}

async function removeLinks(links: readonly OwnedLink[]): Promise<void> {
  for (const [netns, taps] of Map.groupBy(links, ({ netns }) => netns)) await removeTaps(netns, taps)
}

function leading<T>(items: readonly T[], is: (item: T) => boolean): number {
  const end = items.findIndex((item) => !is(item))
  return end === -1 ? items.length : end
}

const attempt = async (task: Promise<void> | undefined): Promise<Error | undefined> => {
  try {
    await task
    return undefined
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

async function undoOne(resource: OwnedResource, sandboxId: string): Promise<void> {
  switch (resource.kind) {
    case 'process':
      if (resource.pid !== undefined && resource.startTicks !== undefined) return endProcess(resource.pid, resource.startTicks)
      // Only intended: whether it ever ran, its environment tells.
      for (const { pid, startTicks } of await findMarked((marker) => marker === `${sandboxId}/${resource.name}`)) await endProcess(pid, startTicks)
      return undefined
    case 'mount':
      return removeMounts([resource])
    case 'directory':
      return removeTree(resource.path)
    case 'file':
      return rm(resource.path, { force: true })
    case 'cgroup':
      return removeCgroup(resource.path)
    case 'link':
      return removeLinks([resource])
  }
}

/** Never through a mount: what is mounted below belongs to somebody else (a volume, a container's root). */
export async function removeTree(path: string): Promise<void> {
  await unmountAll(await mountsBelow(path))
  const left = await mountsBelow(path)
  if (left.length > 0) throw new RuntimeError('INTERNAL', `${path} is not removed: ${left.join(', ')} is still mounted below it`)
  await rm(path, { recursive: true, force: true })
}
