/**
 * The pod's cgroup: a child of the one the kubelet made for the pod (or of the configured parent), in which every host
 * process of the sandbox runs. CRI's pod statistics are read from the parent and count it in.
 *
 * It carries no memory limit of its own. The VM's size bounds what the guest can use; the helpers' use beyond that is
 * covered by RuntimeClass.overhead in the parent's limit, and a second, tighter limit would only kill VMMs whose
 * overhead was guessed too low.
 */
import { constants } from 'node:fs'
import { access, mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { RuntimeError, explain } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'
import type { Ownership } from './ownership.ts'
import { endProcess, processStat } from './processes.ts'

const ROOT = '/sys/fs/cgroup'
/**
 * v1 hierarchies that account or limit, and systemd's own: what stayed in the sandboxer's unit there would end with it.
 * The others would only add a directory per pod.
 */
const CONTROLLERS = ['cpu', 'cpuacct', 'memory', 'pids', 'blkio', 'cpuset', 'freezer', 'hugetlb', 'name=systemd']
/** How long the kernel may take to let go of the processes that just ended, in ms. */
const RMDIR_WAIT_MS = 3_000
const RMDIR_POLL_MS = 10

/** Mount points of the hierarchies pods are put into: one on a v2 host, one per controller in use on a v1 host. */
export async function hierarchies(): Promise<readonly string[]> {
  const unified: string[] = []
  const legacy: string[] = []
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')) {
    const [mount, filesystem] = line.split(' - ')
    const target = mount?.split(' ')[4]
    const [type, , options] = filesystem?.split(' ') ?? []
    if (target === undefined || !(target === ROOT || target.startsWith(`${ROOT}/`))) continue
    if (type === 'cgroup2') unified.push(target)
    if (type === 'cgroup' && (options ?? '').split(',').some((word) => CONTROLLERS.includes(word))) legacy.push(target)
  }
  // Beside v1 hierarchies the unified one carries no controllers and needs no pods. Source: cgroups(7), "hybrid".
  const chosen = legacy.length > 0 ? legacy : unified
  const writable: string[] = []
  for (const path of new Set(chosen)) if (await exists(path, constants.W_OK)) writable.push(path)
  return writable
}

const exists = (path: string, mode = constants.F_OK): Promise<boolean> =>
  access(path, mode).then(
    () => true,
    () => false,
  )

/** Makes `path` (as in `/kubepods/pod1/kuasar-x`) in every hierarchy; returns their cgroup.procs files. */
export async function createPodCgroup(path: string, roots: readonly string[], ownership: Ownership): Promise<readonly string[]> {
  const dirs = roots.map((root) => join(root, path))
  await ownership.acquireAll(
    dirs.map((dir) => ({ kind: 'cgroup', path: dir })),
    async () => {
      for (const dir of dirs) {
        await mkdir(dir, { recursive: true })
        await inheritCpuset(dir)
      }
    },
  )
  return dirs.map((dir) => join(dir, 'cgroup.procs'))
}

/** What two spare: a cgroup that yields the processors to all beside it. Source: cgroup-v2.rst (1 to 10000), sched-design-CFS.rst (2 at least). */
const LEAST_WEIGHT = [
  ['cpu.weight', '1'],
  ['cpu.shares', '2'],
] as const

/** Whatever runs in it waits for what its siblings do. Where the controller is not in use nothing is to be said. */
export async function yieldProcessors(cgroupProcs: readonly string[]): Promise<void> {
  for (const dir of cgroupProcs.map((file) => dirname(file)))
    for (const [name, value] of LEAST_WEIGHT) if (await exists(join(dir, name))) await writeFile(join(dir, name), value)
}

/** Rounds of a move: a process may have forked while it went on. */
const MOVE_ROUNDS_MAX = 8

/**
 * Moves all processes from one cgroup to another in each hierarchy; the files are as createPodCgroup returns them. What
 * they have touched stays charged where it was. Errors: INTERNAL when some remain.
 */
export async function moveProcesses(from: readonly string[], to: readonly string[]): Promise<void> {
  for (const [index, source] of from.entries()) {
    let pids = await pidsIn(source)
    for (let round = 0; pids.length > 0 && round < MOVE_ROUNDS_MAX; round++) {
      // The end of one that has just died is told elsewhere.
      for (const pid of pids) await writeFile(to[index] ?? '', pid).catch(ignoreGone)
      pids = await pidsIn(source)
    }
    if (pids.length > 0) throw new RuntimeError('INTERNAL', `processes ${pids.join(', ')} cannot be moved from ${source} to ${to[index]}`)
  }
}

const pidsIn = async (file: string): Promise<string[]> => (await readFile(file, 'utf8')).split('\n').filter((line) => line !== '')

function ignoreGone(error: unknown): void {
  if (!isErrno(error, 'ESRCH')) throw error
}

/** A fresh v1 cpuset has neither CPUs nor memory nodes and takes no process. Source: cpuset(7). */
async function inheritCpuset(dir: string): Promise<void> {
  for (const name of ['cpuset.cpus', 'cpuset.mems']) {
    const file = join(dir, name)
    const own = await readFile(file, 'utf8').catch(() => undefined)
    if (own === undefined || own.trim() !== '' || (await isUnified(dir))) continue
    const parent = dirname(dir)
    if ((await readFile(join(parent, name), 'utf8')).trim() === '') await inheritCpuset(parent)
    await writeFile(file, await readFile(join(parent, name), 'utf8'))
  }
}

const isUnified = (dir: string): Promise<boolean> => exists(join(dir, 'cgroup.controllers'))

/** Ends whatever still runs in it; it is ours alone. Then removes it, waiting for the kernel to see it empty. */
export async function removeCgroup(path: string): Promise<void> {
  for (let waitedMs = 0; ; waitedMs += RMDIR_POLL_MS) {
    try {
      await rmdir(path)
      return
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return
      if (!isErrno(error, 'EBUSY') && !isErrno(error, 'ENOTEMPTY')) throw error
      if (waitedMs >= RMDIR_WAIT_MS)
        throw new RuntimeError('INTERNAL', `cgroup ${path} cannot be removed: ${explain(error)}`, { cause: error })
    }
    await empty(path)
    await sleep(RMDIR_POLL_MS)
  }
}

async function empty(path: string): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true }).catch(() => []))
    if (entry.isDirectory()) await removeCgroup(join(path, entry.name))
  for (const pid of await pidsIn(join(path, 'cgroup.procs')).catch(() => [])) {
    const stat = await processStat(Number(pid))
    if (stat !== undefined && stat.state !== 'Z') await endProcess(stat.pid, stat.startTicks)
  }
}

/** The cgroups named after one of these sandboxes in which these processes run: found without a record. */
export async function sandboxCgroups(ids: readonly string[], pids: readonly number[]): Promise<readonly string[]> {
  const found = new Set<string>()
  const roots = await hierarchies()
  for (const pid of pids) {
    const text = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')
    for (const line of text.split('\n')) {
      const path = line.split(':').slice(2).join(':')
      if (!ids.some((id) => path.endsWith(`/kuasar-${id}`))) continue
      for (const root of roots) if (await exists(join(root, path))) found.add(join(root, path))
    }
  }
  return [...found]
}
