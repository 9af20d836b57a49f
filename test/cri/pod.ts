/** One pod. */

import type { MessageOut } from '#shared/rpc/any.ts'
import type { CriContext } from './client.ts'
import { containerConfig, isContainerConfig, type ContainerConfig, type ContainerOptions, type PodSandboxConfig } from './config.ts'
import { containerHandle, type Container } from './container.ts'
import { openPortForward, type PortForward } from './port-forward.ts'

export interface Pod extends AsyncDisposable {
  readonly id: string
  readonly config: PodSandboxConfig
  /** Creates a container; it does not run yet. */
  create(config?: ContainerOptions | ContainerConfig): Promise<Container>
  /** Creates and starts a container. */
  run(config?: ContainerOptions | ContainerConfig): Promise<Container>
  status(): Promise<MessageOut<'runtime.v1.PodSandboxStatus'>>
  /** The runtime's own words on the pod (`verbose`). */
  info(): Promise<Readonly<Record<string, string>>>
  stats(): Promise<MessageOut<'runtime.v1.PodSandboxStats'>>
  /** A port may come several times, PORTS_MAX ports at most. */
  portForward(...ports: readonly number[]): Promise<PortForward>
  containers(): Promise<MessageOut<'runtime.v1.Container'>[]>
  stop(): Promise<void>
  /** Removes the pod and its containers; it is stopped first when need be. */
  remove(): Promise<void>
}

export function podHandle(context: CriContext, id: string, config: PodSandboxConfig): Pod {
  const { runtime } = context
  const status = (verbose: boolean) => runtime.PodSandboxStatus({ podSandboxId: id, verbose })
  const pod: Pod = {
    id,
    config,
    async create(given = {}) {
      const container = isContainerConfig(given) ? given : containerConfig(given)
      const request = { podSandboxId: id, config: container, sandboxConfig: config }
      return containerHandle(context, (await runtime.CreateContainer(request)).containerId)
    },
    async run(given) {
      const container = await pod.create(given)
      await container.start()
      return container
    },
    status: async () => present((await status(false)).status, `the status of pod ${id}`),
    info: async () => (await status(true)).info,
    stats: async () => present((await runtime.PodSandboxStats({ podSandboxId: id })).stats, `the stats of pod ${id}`),
    containers: async () => (await runtime.ListContainers({ filter: { podSandboxId: id } })).containers,
    async portForward(...ports) {
      const target = new URL((await runtime.PortForward({ podSandboxId: id, port: [...ports] })).url)
      target.port = String(await context.forward(Number(target.port)))
      target.hostname = '127.0.0.1'
      return openPortForward(target.href, ports)
    },
    async stop() {
      await runtime.StopPodSandbox({ podSandboxId: id })
    },
    async remove() {
      await pod.stop()
      await runtime.RemovePodSandbox({ podSandboxId: id })
      if (config.linux?.cgroupParent !== undefined) await context.cgroups.remove(config.linux.cgroupParent)
    },
    [Symbol.asyncDispose]: () => pod.remove(),
  }
  return pod
}

/** A message that a correct runtime never leaves out. */
export function present<T>(message: T | null | undefined, what: string): T {
  if (message === null || message === undefined) throw new Error(`CRI answered without ${what}`)
  return message
}
