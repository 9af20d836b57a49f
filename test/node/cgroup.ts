/**
 * A node's cgroups: one directory of its name in every hierarchy of the outer machine, v1, v2 or both. Everything in
 * the node lives below them, so they tell what is left of it, and killing what they hold ends it.
 */

import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** How long the processes of a killed cgroup may take to be gone. */
const emptyMsMax = 10_000

/** The mount points of the outer machine's cgroup hierarchies. */
export async function hierarchies(): Promise<string[]> {
  const points: string[] = []
  for (const line of (await readFile('/proc/self/mounts', 'utf8')).split('\n')) {
    const [, point, kind] = line.split(' ')
    if (point !== undefined && (kind === 'cgroup' || kind === 'cgroup2')) points.push(point)
  }
  return points
}

/** Makes the cgroup `name` in every hierarchy, ready for processes. */
export async function makeCgroups(name: string): Promise<string[]> {
  const made: string[] = []
  for (const point of await hierarchies()) {
    const path = join(point, name)
    await mkdir(path)
    made.push(path)
    // A v1 cpuset starts empty and takes no process until it has CPUs and memory nodes.
    for (const file of ['cpuset.cpus', 'cpuset.mems']) {
      const own = join(path, file)
      if (existsSync(own) && existsSync(join(path, 'tasks'))) await writeFile(own, await readFile(join(point, file)))
    }
    if (existsSync(join(path, 'cgroup.clone_children'))) await writeFile(join(path, 'cgroup.clone_children'), '1')
    if (!isUnified(path)) continue
    await handDownControllers(point)
    await mkdir(join(path, 'init'))
  }
  return made
}

/** True for a node's cgroup on a machine of v2 alone. Beside v1 hierarchies v2 has no controllers worth handing down. */
export function isUnified(cgroup: string): boolean {
  return dirname(cgroup) === '/sys/fs/cgroup'
}

/** On v2 a child has only the controllers its parent hands down. */
export async function handDownControllers(path: string): Promise<void> {
  const control = join(path, 'cgroup.subtree_control')
  const controllers = (await readFile(join(path, 'cgroup.controllers'), 'utf8')).split(/\s+/).filter((c) => c !== '')
  for (const controller of controllers) await writeFile(control, `+${controller}`)
}

/** The cgroups below `path`, itself included, children before parents. */
export async function cgroupTree(path: string): Promise<string[]> {
  const found: string[] = []
  for (const entry of await readdir(path, { withFileTypes: true }).catch(() => [])) {
    if (entry.isDirectory()) found.push(...(await cgroupTree(join(path, entry.name))))
  }
  found.push(path)
  return found
}

/** Kills whatever is left in the cgroups `name` and removes them from every hierarchy. */
export async function removeCgroups(name: string): Promise<void> {
  for (const point of await hierarchies()) {
    const top = join(point, name)
    if (!existsSync(top)) continue
    for (const path of await cgroupTree(top)) await removeCgroup(path)
  }
}

async function removeCgroup(path: string): Promise<void> {
  const deadlineMs = Date.now() + emptyMsMax
  for (;;) {
    try {
      await rmdir(path)
      return
    } catch (error) {
      if (!existsSync(path)) return
      if (Date.now() > deadlineMs) throw new Error(`cgroup ${path} does not become empty`, { cause: error })
    }
    const pids = (await readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => '')).split('\n')
    // 0 stands for a process of another pid namespace: there is none to name, and kill(0) would hit ourselves.
    for (const pid of pids.map(Number)) if (pid > 0) killQuietly(pid)
    await sleep(10)
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // Gone between the reading and the kill.
  }
}

/** The names of all cgroups of nodes, running or left behind. */
export async function nodeCgroups(prefix: string): Promise<string[]> {
  const names = new Set<string>()
  for (const point of await hierarchies()) {
    for (const name of await readdir(point).catch(() => [])) {
      if (basename(name).startsWith(prefix)) names.add(name)
    }
  }
  return [...names]
}
