/** What the benchmarks of pods share: a node with the sandboxer and containerd, and what the sandboxer recorded. */
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { startContainerd, type Containerd } from '#test/node/containerd.ts'
import { startNode, type TestNode } from '#test/node/node.ts'
import { sandboxerConfig, startSandboxer, type Sandboxer } from '#test/node/sandboxer.ts'
import { poll } from '#test/node/poll.ts'
import type { Pod } from '#test/cri/pod.ts'
import type { Series } from './benchmark.ts'
import type { VmCommands } from './vm/commands.ts'
import { commandsOf } from './vm/commands.ts'
import { sandboxDirectory } from './vm/run.ts'
import { preferred } from './weight.ts'

export const microvm = 'kuasar-qemu'

/** The image that the node's microVMs boot; paths inside it. */
export const image = sandboxerConfig.backends[microvm]

export interface Lab extends AsyncDisposable {
  readonly node: TestNode
  readonly containerd: Containerd
  readonly sandboxer: Sandboxer
}

export interface LabOptions {
  /** A root disk inside the node, in place of the image's own. */
  readonly rootfs?: string
  /** VMs that wait for pods. Default: none. */
  readonly warm?: number
}

/** `prepare` runs before the sandboxer starts. */
export async function openLab(prepare: (node: TestNode) => Promise<LabOptions> = async () => ({})): Promise<Lab> {
  await using stack = new AsyncDisposableStack()
  const node = stack.use(await startNode())
  const options = await prepare(node)
  await preferred(node.cgroups)
  const backends = { ...sandboxerConfig.backends, [microvm]: { ...image, ...options } }
  const sandboxer = stack.use(await startSandboxer(node, { config: { ...sandboxerConfig, backends } }))
  const containerd = stack.use(await startContainerd(node))
  const owned = stack.move()
  return { node, containerd, sandboxer, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** A pod that boots a VM of its own, whatever waits: one that names a size, be it the usual one, is served by none. */
export const cold = { annotations: { 'io.kuasar.vcpus': '1' } } as const

/** The id of a VM that waits for a pod, once one does. */
export async function waitingVm({ node }: Lab): Promise<string> {
  const connection = connectGrpc(node.path(adminSocket))
  try {
    const { admin } = loadServices(loadProtos(), ['admin'])
    const id = await poll(WAITING_MS_MAX, async () => (await connection.calls(admin).List({})).sandboxes.find(({ state }) => state === 'warm')?.id)
    if (id === undefined) throw new Error(`no VM waits for a pod after ${WAITING_MS_MAX} ms`)
    return id
  } finally {
    connection.close()
  }
}

/** A boot on a machine that does other work as well. */
const WAITING_MS_MAX = 120_000

/** Starts a microVM pod, reads how its VM is run, and removes it: also the warm-up of everything it needs. */
export async function exampleVm({ containerd }: Lab): Promise<{ readonly commands: VmCommands; readonly directory: string }> {
  await using pod = await containerd.cri.runPod(cold, microvm)
  const directory = sandboxDirectory(pod.id)
  return { commands: await commandsOf(directory), directory }
}

/** A span of a pod's start as the sandboxer recorded it, in ms since the epoch. */
export interface Step {
  readonly name: string
  readonly startMs: number
  readonly endMs: number
}

const adminSocket = '/run/kuasar/admin.sock'

export async function stepsOf({ node }: Lab, pod: Pod): Promise<Step[]> {
  const connection = connectGrpc(node.path(adminSocket))
  try {
    const { spans } = await connection.calls(loadServices(loadProtos(), ['admin']).admin).Trace({ id: pod.id })
    return spans.map(({ name, startNanos, endNanos }) => ({ name, startMs: millis(startNanos), endMs: millis(endNanos) }))
  } finally {
    connection.close()
  }
}

const millis = (nanos: string): number => Number(BigInt(nanos) / 1000n) / 1000

/** How long each step of several starts took, in the order of the first. */
export function stepSeries(prefix: string, starts: readonly (readonly Step[])[]): Series[] {
  return (starts[0] ?? []).map(({ name }) => ({
    name: `${prefix}${name}`,
    unit: 'ms',
    samples: starts.flatMap((steps) => steps.filter((step) => step.name === name).map(({ startMs, endMs }) => endMs - startMs)),
  }))
}
