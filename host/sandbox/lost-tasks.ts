/**
 * The tasks that containerd still has of a guest that is gone. It forgets one whose exit it waits for. One whose guest died
 * between Create and Start it does not: its CRI plugin's Kill fails, the Delete behind it is left out, and the task and its
 * two directories stay until it is started anew. (Source: StartContainer in internal/cri/server, WithProcessKill in client;
 * a shim's connection has a callback for its end, a sandbox's has none.)
 */
import { explain } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import type { SandboxRecord } from './record.ts'
import { inParallel } from './reconcile.ts'
import type { SandboxServices } from './services.ts'

/** For all of a sandbox, in ms. */
const DROP_MS = 10_000

/** Never rejects: containerd that is away drops them by itself when it comes back and finds nobody at their address. */
export async function dropTasks({ namespace, containers }: SandboxRecord, services: Pick<SandboxServices, 'containerd' | 'namespace'>, log: Log): Promise<void> {
  if (namespace !== services.namespace) return
  const signal = AbortSignal.timeout(DROP_MS)
  await inParallel(containers, async (containerId) => {
    await services.containerd.dropTask(containerId, signal).catch((error: unknown) => log.debug('containerd has not dropped a task', { containerId, error: explain(error) }))
  })
}
