/**
 * Containers that have as many processes as they may have. crun (1.8.1) clones a process of its own into the container's cgroup, which
 * forks the one that stays. With no place left the first is refused, and crun moves one there, which never is; with one left the second
 * is, and crun says "fork: Resource temporarily unavailable" or "fail startup", and not whose limit it was.
 */
import { dirname } from 'node:path'
import { explain, hasCode, RuntimeError } from '#shared/errors.ts'
import { Cgroup } from '../runtime/cgroup.ts'

/** At once: the one that is cloned, and its child, which stays. */
const PROCESSES_OF_CRUN = 2

/** What crun's failure comes of when the container, or all of its pod's together, have no room for another process; else itself. */
export function fullOr(failure: unknown, container: Cgroup): unknown {
  // Others have their reason in them.
  if (!hasCode(failure, 'INTERNAL')) return failure
  const levels = [
    ['the container has', 'it may have', container],
    ["the pod's containers have", "they may have (the kubelet's podPidsLimit)", new Cgroup(dirname(container.path))],
  ] as const
  for (const [who, may, cgroup] of levels) {
    const { count, max } = cgroup.processes() ?? { count: 0, max: Infinity }
    if (count + PROCESSES_OF_CRUN <= max) continue
    const message = `${explain(failure)}: ${who} ${count} of the ${max} processes and threads ${may}, and one more takes ${PROCESSES_OF_CRUN} at once`
    return new RuntimeError('RESOURCE_EXHAUSTED', message, { cause: failure })
  }
  return failure
}
