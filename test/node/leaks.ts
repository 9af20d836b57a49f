/**
 * What pods leave behind: a snapshot of everything a node holds, and what a later one has more. Compare with an empty
 * list: each leak is a line that names it.
 */

import type { Stats } from 'node:fs'
import { lstat, readdir, readFile, readlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cgroupTree } from './cgroup.ts'
import type { TestNode } from './node.ts'
import { poll } from './poll.ts'

/** Everything found, as `kind what` → what a reader needs to know of it. */
export type Snapshot = ReadonlyMap<string, string>

/** Directories where runtimes keep the state of pods. Their contents are compared, not their sizes. */
const stateDirectories = [
  '/run',
  '/tmp',
  '/dev/shm',
  '/var/lib/cni',
  '/var/lib/kuasar',
  '/var/lib/containerd/io.containerd.grpc.v1.cri',
  '/var/lib/containerd/io.containerd.runtime.v2.task',
  '/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots',
]

/** What the first pod of a node makes and every later one uses: left by design of CNI's plugins and containerd. */
const standing = [
  /^interface cni\d$/,
  /^file \/var\/lib\/cni(\/networks)?(\/node(-\w+)?)?(\/lock|\/last_reserved_ip\.\d)?$/,
  /^file \/var\/lib\/cni\/(results|cache)$/,
  /^file \/run\/netns$/,
  /^file \/(run|var\/lib)\/containerd\/io\.containerd\.grpc\.v1\.cri\/(containers|sandboxes)$/,
  /^file \/(run|var\/lib)\/containerd\/io\.containerd\.runtime\.v2\.task\/k8s\.io$/,
  /^file \/run\/containerd\/(s|runc|runc\/k8s\.io)$/,
  /^cgroup .*\/(kubepods|k8s\.io|kuasar)$/,
]

const settleMsDefault = 10_000

/** Everything the node holds now: processes, mounts, sockets, cgroups, network interfaces and namespaces, files. */
export async function snapshot(node: TestNode): Promise<Snapshot> {
  const found = new Map<string, string>()
  for (const part of [processes, mounts, sockets, cgroups, interfaces, podNetworks, files]) {
    for (const [key, detail] of await part(node)) found.set(key, detail)
  }
  return found
}

/**
 * What the node holds beyond `before`. Removal ends a little later than the call that asked for it (garbage
 * collection, reaping), so this asks again until nothing is left or `settleMs` has passed.
 */
export async function leaksSince(node: TestNode, before: Snapshot, settleMs = settleMsDefault): Promise<string[]> {
  let leaks: string[] = []
  await poll(settleMs, async () => {
    leaks = beyond(before, await snapshot(node))
    if (leaks.some((leak) => leak.includes('/snapshots/'))) await collectGarbage(node)
    return leaks.length === 0 ? true : undefined
  })
  return leaks
}

/**
 * containerd forgets a removed snapshot at once and takes its directory away with the next collection, which may be a
 * hundred changes away; the deletion of a lease can ask for one. Source: containerd, docs/garbage-collection.md.
 */
async function collectGarbage(node: TestNode): Promise<void> {
  const ctr = (...args: string[]) => node.exec('ctr', ['--namespace', 'k8s.io', 'leases', ...args])
  await ctr('create', '--id', 'kuasar-test-gc')
  await ctr('delete', '--sync', 'kuasar-test-gc')
}

/** What is new, but for what lies in a directory that is itself new. */
function beyond(before: Snapshot, after: Snapshot): string[] {
  const keys = [...after.keys()].filter((key) => !before.has(key) && !standing.some((pattern) => pattern.test(key)))
  const fresh = new Set(keys)
  return keys.filter((key) => !fresh.has(dirname(key))).map((key) => `${key} ${after.get(key)}`.trim())
}

type Found = [key: string, detail: string][]

/** What the node's /proc shows, but for its services, which come and go by the test's own will. */
async function processes(node: TestNode): Promise<Found> {
  const found: Found = []
  const services = new Set(node.services.filter(({ running }) => running).map(({ insidePid }) => String(insidePid)))
  for (const pid of await readdir(node.path('/proc'))) {
    if (!/^\d+$/.test(pid) || services.has(pid)) continue
    const directory = node.path(`/proc/${pid}`)
    const stat = await readFile(`${directory}/stat`, 'utf8').catch(() => undefined)
    if (stat === undefined) continue
    const [state, started] = [1, 20].map((field) => stat.slice(stat.lastIndexOf(')')).split(' ')[field])
    const command = await readFile(`${directory}/cmdline`, 'utf8').catch(() => '')
    const name = state === 'Z' ? `${stat.slice(0, stat.lastIndexOf(')') + 1)} zombie` : command.replaceAll('\0', ' ')
    // A pid is reused; with its start it is not.
    found.push([`process ${pid} of ${started}`, name])
    const net = await readlink(`${directory}/ns/net`).catch(() => undefined)
    if (net !== undefined) found.push([`network namespace ${net}`, `in use by ${name}`])
  }
  return found
}

async function mounts(node: TestNode): Promise<Found> {
  const lines = (await readFile(`/proc/${node.pid}/mountinfo`, 'utf8')).trimEnd().split('\n')
  return lines.map((line) => {
    const fields = line.split(' ')
    return [`mount ${fields[4]}`, fields.slice(fields.indexOf('-') + 1).join(' ').slice(0, detailLengthMax)]
  })
}

/** Unix sockets with a name. */
async function sockets(node: TestNode): Promise<Found> {
  const lines = (await readFile(`/proc/${node.pid}/net/unix`, 'utf8')).trimEnd().split('\n').slice(1)
  return lines.flatMap((line): Found => {
    const path = line.split(' ').slice(7).join(' ').trim()
    return path.includes('/') ? [[`socket ${path.slice(path.indexOf('/'))}`, '']] : []
  })
}

async function cgroups(node: TestNode): Promise<Found> {
  const trees = await Promise.all(node.cgroups.map(cgroupTree))
  return trees.flat().map((path) => [`cgroup ${path}`, ''])
}

async function interfaces(node: TestNode): Promise<Found> {
  const lines = (await readFile(`/proc/${node.pid}/net/dev`, 'utf8')).split('\n').slice(2)
  return lines.flatMap((line): Found => (line.includes(':') ? [[`interface ${line.split(':')[0]?.trim()}`, '']] : []))
}

/** Devices and incoming redirections inside the namespaces that CNI made. */
async function podNetworks(node: TestNode): Promise<Found> {
  const script = 'for n in /run/netns/*; do [ -e "$n" ] && nsenter --net="$n" sh -c \'ip -o link; tc qdisc show ingress\' | sed "s|^|$n |"; done; true'
  const lines = (await node.run('sh', ['-c', script])).split('\n').filter((line) => line !== '')
  return lines.map((line) => [`pod network ${line.replace(/ \d+: ([^:@]+).*/, ' link $1')}`, ''])
}

async function files(node: TestNode): Promise<Found> {
  const found: Found = []
  for (const directory of stateDirectories) {
    const top = await lstat(node.path(directory)).catch(() => undefined)
    if (top !== undefined) await walk(node, directory, top, found)
  }
  return found
}

/** Everything below, the mount points of other file systems included but not what is mounted there. */
async function walk(node: TestNode, directory: string, { dev }: Stats, found: Found): Promise<void> {
  for (const name of await readdir(node.path(directory)).catch(() => [])) {
    const path = join(directory, name)
    const stats = await lstat(node.path(path)).catch(() => undefined)
    if (stats === undefined) continue
    found.push([`file ${path}`, stats.isDirectory() ? 'directory' : ''])
    // Snapshots are whole file systems: that one is left says enough.
    if (stats.isDirectory() && stats.dev === dev && !path.includes('/snapshots/')) await walk(node, path, stats, found)
  }
}

const detailLengthMax = 200
