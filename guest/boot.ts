/** The pod's configuration put into effect, once per boot, before the first container. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { isDigits } from '#shared/digits.ts'
import { RuntimeError } from '#shared/errors.ts'
import type { Os } from '#shared/os/contract.ts'
import type { GuestConfig } from './config.ts'
import type { Network } from './network/apply.ts'
import type { PodConfig } from './pod.ts'
import { hostsFile, podPaths, resolvConf, sysctlPath } from './pod-files.ts'
import type { Storages } from './storage/storages.ts'

/** Kubernetes's own size of a pod's /dev/shm. */
const SHM_BYTES_DEFAULT = 64n * 1024n * 1024n

const HUGEPAGE_BYTES = 2 * 1024 * 1024

/** Kept from the containers of what is free before the first: for the agent's work, crun, and the kernel's own on their behalf. */
const RESERVE_BYTES = 16 * 1024 * 1024

/** Runs what has to be done with the pod's configuration. Errors name the part that failed. */
export async function applyPod(pod: PodConfig, config: GuestConfig, os: Os, storages: Storages, network: Network): Promise<void> {
  const { run } = config.paths
  // Zero is a sandboxer that shares its clock with the agent.
  if (pod.realtimeNanos > 0n) os.processes.setRealtime(pod.realtimeNanos)
  if (pod.hostname !== '') os.processes.sethostname(pod.hostname)
  await reserveHugepages(config.paths.hugepages, pod.hugepageBytes)
  // `ip` works while the rest is done.
  const networking = network.setUp(pod.network, pod.cards)
  networking.catch(() => {})
  // Held for the life of the VM: never disposed.
  await storages.acquire([...pod.storages, shmStorage(pod, run)])
  writePodFiles(pod, run)
  boundMemory(config.paths, pod.memoryLimitBytes)
  boundPids(config.paths, pod.pidsLimit)
  await networking
  // Last, for some name a link.
  for (const [name, value] of pod.sysctls) applySysctl(config.paths.sysctl, name, value)
}

/** Early, while memory is in one piece. The kernel takes what it finds and says nothing of the rest. */
async function reserveHugepages(path: string, bytes: number): Promise<void> {
  if (bytes === 0) return
  const wanted = bytes / HUGEPAGE_BYTES
  try {
    await writeFile(path, String(wanted))
  } catch (cause) {
    throw new RuntimeError('UNIMPLEMENTED', `huge pages: the guest's kernel has no ${path}`, { cause })
  }
  const got = Number(await readFile(path, 'latin1'))
  if (got < wanted)
    throw new RuntimeError(
      'RESOURCE_EXHAUSTED',
      `huge pages: the guest's kernel could set aside ${got} of ${wanted} pages of 2 MiB; give the pod more memory (io.kuasar.memory-mib)`,
    )
}

/**
 * The containers together get what nobody has yet, huge pages aside, and never less than the pod's limit: of a large VM its kernel
 * takes more than the sandboxer reckons with. In a small guest without a limit it is half of what there is to be had. Without a
 * bound they would press out the agent's pages, which it then reads again and again, long before the OOM killer strikes.
 */
function boundMemory({ meminfo, cgroupRoot, podCgroup }: GuestConfig['paths'], limitBytes: number): void {
  if (meminfo === '') return
  const lines = readFileSync(meminfo, 'latin1').split('\n')
  const bytes = (name: string) => kilobytesOf(lines.find((line) => line.startsWith(`${name}:`)) ?? '') * 1024
  const bound = Math.max(bytes('MemFree') - RESERVE_BYTES, Math.floor(bytes('MemAvailable') / 2), limitBytes)
  mkdirSync(`${cgroupRoot}${podCgroup}`, { recursive: true })
  writeFileSync(`${cgroupRoot}${podCgroup}/memory.max`, String(bound))
}

/** Of a line "Name:   1234 kB"; 0 of any other. By hand: `isDigits` says why. */
function kilobytesOf(line: string): number {
  const amount = line.slice(line.indexOf(':') + 1, -' kB'.length).trim()
  return line.endsWith(' kB') && isDigits(amount, 15) ? Number(amount) : 0
}

/** The containers together: neither the agent nor PID 1, which must be able to end them, is counted. */
function boundPids({ cgroupRoot, podCgroup }: GuestConfig['paths'], limit: number): void {
  if (limit === 0) return
  mkdirSync(`${cgroupRoot}${podCgroup}`, { recursive: true })
  writeFileSync(`${cgroupRoot}${podCgroup}/pids.max`, String(limit))
}

function shmStorage({ shmBytes }: PodConfig, run: string) {
  const size = shmBytes === 0n ? SHM_BYTES_DEFAULT : shmBytes
  const options = ['nosuid', 'nodev', 'noexec', 'mode=1777', `size=${size}`]
  return { type: 'tmpfs', source: 'shm', target: podPaths(run).shm, options }
}

/** At once, as all of it is memory: asking Node's threads would start them, which a pod's start need not wait for. */
function writePodFiles(pod: PodConfig, run: string): void {
  const paths = podPaths(run)
  mkdirSync(paths.dir, { recursive: true })
  const files = [
    [paths.hosts, hostsFile(pod.hostname, pod.hostsLines)],
    [paths.hostname, `${pod.hostname}\n`],
    [paths.resolvConf, resolvConf(pod.dns)],
  ] as const
  for (const [path, text] of files) writeFileSync(path, text, { mode: 0o644 })
}

function applySysctl(root: string, name: string, value: string): void {
  const path = sysctlPath(root, name)
  try {
    if (!existsSync(path)) throw new RuntimeError('INVALID_ARGUMENT', `the guest's kernel has no ${path}`)
    writeFileSync(path, value)
  } catch (cause) {
    throw new RuntimeError('INVALID_ARGUMENT', `sysctl ${name} = ${JSON.stringify(value)} of the pod cannot be set`, { cause })
  }
}
