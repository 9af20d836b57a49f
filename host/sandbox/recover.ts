/**
 * What a fresh sandboxer does before it serves anyone: it reads what its predecessor wrote, adopts the guests that
 * live, undoes what was left half done, and clears away what no record names.
 */
import { readdir, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { RuntimeError, explain } from '#shared/errors.ts'
import { removeCgroup, sandboxCgroups } from './cgroup.ts'
import { endProcess, findMarked, markedBelow, type ProcessStat } from './processes.ts'
import { parseRecord, type SandboxRecord } from './record.ts'
import type { Sandboxes } from './sandboxes.ts'
import type { SandboxServices } from './services.ts'
import { paths } from './start.ts'
import { removeTree } from './undo.ts'

/**
 * A record that cannot be used, be it damaged or of a backend no longer configured, costs its own sandbox and no other.
 * Answers the records of warm VMs: they serve nobody, and are to be ended.
 */
export async function recover(sandboxes: Sandboxes, services: SandboxServices, parallel: number): Promise<readonly SandboxRecord[]> {
  const { store, log, observer } = services
  const known = new Set<string>()
  const unreadable: string[] = []
  const found: SandboxRecord[] = []
  for (const { id, text } of await store.list()) {
    const record = readRecord(id, text, services)
    if (record instanceof RuntimeError) {
      const kept = await store.quarantine(id)
      unreadable.push(id)
      observer.recovered('unreadable')
      log.error('a record cannot be read: its sandbox is ended', { sandbox: id, error: record, kept })
      continue
    }
    known.add(id).add(record.vm ?? id)
    found.push(record.bootId === services.bootId ? record : afterReboot(record, services))
  }
  await clearStrays(known, unreadable, services)
  const queue = found.filter(({ state }) => state !== 'warm').map((record) => sandboxes.found(record))
  const worker = async () => {
    for (let sandbox = queue.pop(); sandbox !== undefined; sandbox = queue.pop()) {
      const { id } = sandbox
      await sandbox.adopt().catch((error: unknown) => log.error('recovery failed', { sandbox: id, error }))
    }
  }
  await Promise.all(Array.from({ length: parallel }, worker))
  return found.filter(({ state }) => state === 'warm')
}

function readRecord(id: string, text: string, services: SandboxServices): SandboxRecord | RuntimeError {
  try {
    const record = parseRecord(text, `the record of ${id}`)
    if (record.id !== id) throw new RuntimeError('INVALID_ARGUMENT', `the record of ${id} is about ${record.id}`)
    if (record.state !== 'warm' && services.backend(record.sandboxer) === undefined)
      throw new RuntimeError('INVALID_ARGUMENT', `no backend is configured for the sandboxer ${record.sandboxer}`)
    return record
  } catch (error) {
    return error instanceof RuntimeError ? error : new RuntimeError('INTERNAL', explain(error))
  }
}

/**
 * Processes, mounts, links and cgroups ended with the machine; pids and names may be somebody else's by now. The directory
 * is given back as it is at any other end: one that resists stays on record.
 */
function afterReboot(record: SandboxRecord, { sandboxesDir, bootId }: SandboxServices): SandboxRecord {
  const owned = [{ kind: 'directory', path: paths(sandboxesDir, record).dir } as const]
  if (record.state === 'warm') return { ...record, bootId, owned }
  const exit = { status: 137, atMs: Date.now(), reason: 'the machine was restarted' }
  return { ...record, bootId, state: 'stopped', exit: record.exit ?? exit, owned, containers: [] }
}

/**
 * Directories without a readable record: their processes carry the name, and lie in a cgroup of that name or, once a pod
 * has claimed a warm VM, of the name of the record that could not be read. Where the directories were removed as well
 * (somebody has emptied the state directory), their processes still say whose they are.
 */
async function clearStrays(known: ReadonlySet<string>, unreadable: readonly string[], services: SandboxServices): Promise<void> {
  const { sandboxesDir, log } = services
  const attempt = async (id: string, found: readonly ProcessStat[] | undefined) => {
    if (known.has(id)) return
    await clearStray(id, found, unreadable, services).catch((error: unknown) => log.error('a stray sandbox cannot be cleared away', { sandbox: id, error }))
  }
  for (const id of await readdir(sandboxesDir).catch(() => [])) await attempt(id, undefined)
  const orphans = await realpath(sandboxesDir).then(markedBelow).catch((error: unknown) => {
    log.error('processes of sandboxes that were removed cannot be looked for', { error })
    return new Map<string, readonly ProcessStat[]>()
  })
  for (const [id, found] of orphans) await attempt(id, found)
}

/** `found`: its processes; undefined: all that carry its name. */
async function clearStray(
  id: string,
  found: readonly ProcessStat[] | undefined,
  unreadable: readonly string[],
  { sandboxesDir, log, observer }: SandboxServices,
): Promise<void> {
  const processes = found ?? (await findMarked((marker) => marker.startsWith(`${id}/`)))
  const cgroups = await sandboxCgroups([id, ...unreadable], processes.map(({ pid }) => pid))
  log.warn('a stray sandbox is cleared away', { sandbox: id, pids: processes.map(({ pid }) => pid) })
  if (!unreadable.includes(id)) observer.recovered('stray')
  for (const { pid, startTicks } of processes) await endProcess(pid, startTicks)
  for (const cgroup of cgroups) await removeCgroup(cgroup)
  await removeTree(join(sandboxesDir, id))
}
