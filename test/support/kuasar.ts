/** A node with everything running, for tests of whole pods. */
import { images } from '#test/images/catalog.ts'
import { startContainerd, type Containerd, type ContainerdOptions } from '#test/node/containerd.ts'
import { leaksSince, snapshot, type Snapshot } from '#test/node/leaks.ts'
import { startNode, type TestNode } from '#test/node/node.ts'
import { startSandboxer, type Sandboxer, type SandboxerOptions } from '#test/node/sandboxer.ts'
import type { Container } from '#test/cri/container.ts'
import type { Pod } from '#test/cri/pod.ts'

export { images }

/** The handler of microVMs that every machine can run. */
export const microvm = 'kuasar-qemu'

export interface Kuasar extends AsyncDisposable {
  readonly node: TestNode
  readonly sandboxer: Sandboxer
  readonly containerd: Containerd
  /** A pod in a microVM. */
  pod(name: string, config?: Readonly<Record<string, string>>): Promise<Pod>
  /** A shell command on the node; answers its output. */
  sh(script: string): Promise<string>
  /** What is there now that was not at the start, a line each. */
  leaks(settleMs?: number): Promise<string[]>
}

export interface KuasarOptions {
  readonly sandboxer?: SandboxerOptions
  readonly containerd?: ContainerdOptions
}

export async function startKuasar(options: KuasarOptions = {}): Promise<Kuasar> {
  const stack = new AsyncDisposableStack()
  try {
    const node = stack.use(await startNode())
    const sandboxer = stack.use(await startSandboxer(node, options.sandboxer))
    const containerd = stack.use(await startContainerd(node, options.containerd))
    const before: Snapshot = await snapshot(node)
    const undo = stack.move()
    return {
      node,
      sandboxer,
      containerd,
      pod: (name, annotations = {}) => containerd.cri.runPod({ name, annotations }, microvm),
      sh: (script) => node.run('sh', ['-c', script]),
      leaks: (settleMs) => leaksSince(node, before, settleMs),
      [Symbol.asyncDispose]: () => undo.disposeAsync(),
    }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

/** Runs a shell script in a container to its end; answers what it printed. Throws when it fails. */
export async function inside(container: Container, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await container.execSync(['sh', '-c', script])
  if (exitCode !== 0) throw new Error(`${script}: exit ${exitCode}: ${stderr || stdout}`)
  return stdout.trimEnd()
}

/** A container that sleeps, for execs. */
export const idle = { command: ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 1; done'] } as const
