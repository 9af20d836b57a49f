/**
 * CRI as tests and the demo speak it: pods and containers as handles, over containerd's own socket. What the handles
 * do not cover is a call away on `runtime` and `images`.
 */

import { readFile } from 'node:fs/promises'
import type { MessageOut } from '#shared/rpc/any.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { containerHandle, type Container } from './container.ts'
import { podHandle, type Pod } from './pod.ts'
import { isPodConfig, podConfig, type PodOptions, type PodSandboxConfig } from './config.ts'

export type RuntimeCalls = Calls<ServiceTypesOf<'runtime'>>

export interface CriOptions {
  /** Reads a file of the node's as text; logs are read so. Default: this machine's own. */
  readonly readFile?: (inside: string) => Promise<string>
  /** A TCP port on this process's loopback that reaches `port` on the node's. Default: the same port. */
  readonly forward?: (port: number) => Promise<number>
  /** Makes and removes pods' cgroups, which is the kubelet's part. Default: nobody does. */
  readonly cgroups?: PodCgroups
}

export interface PodCgroups {
  make(cgroupParent: string): Promise<void>
  remove(cgroupParent: string): Promise<void>
}

export interface Cri extends Disposable {
  readonly runtime: RuntimeCalls
  readonly images: Calls<ServiceTypesOf<'images'>>
  /** Runs a pod under a runtime handler: `runc`, `kuasar-qemu`, … */
  runPod(config: PodOptions | PodSandboxConfig, handler: string): Promise<Pod>
  /** A handle for a pod that runs already. Containers created through it get `config` as their pod's. */
  pod(id: string, config: PodSandboxConfig): Pod
  container(id: string): Container
  pods(): Promise<MessageOut<'runtime.v1.PodSandbox'>[]>
  containers(): Promise<MessageOut<'runtime.v1.Container'>[]>
  /** Removes every pod there is and its containers, whatever their state and whoever ran them. */
  removeAll(): Promise<void>
  close(): void
}

/** What the handles share. */
export interface CriContext {
  readonly runtime: RuntimeCalls
  readonly readFile: (inside: string) => Promise<string>
  readonly forward: (port: number) => Promise<number>
  readonly cgroups: PodCgroups
}

/** Connects to containerd's socket. The connection outlives restarts of containerd. */
export function connectCri(socketPath: string, options: CriOptions = {}): Cri {
  const connection = connectGrpc(socketPath)
  const services = loadServices(loadProtos(), ['runtime', 'images'])
  const runtime = connection.calls(services.runtime)
  const context: CriContext = {
    runtime,
    readFile: options.readFile ?? ((inside) => readFile(inside, 'utf8')),
    forward: options.forward ?? (async (port) => port),
    cgroups: options.cgroups ?? { make: async () => {}, remove: async () => {} },
  }
  const configs = new Map<string, PodSandboxConfig>()
  const cri: Cri = {
    runtime,
    images: connection.calls(services.images),
    async runPod(given, handler) {
      const config = isPodConfig(given) ? given : podConfig(given)
      const cgroup = config.linux?.cgroupParent
      if (cgroup !== undefined) await context.cgroups.make(cgroup)
      try {
        const { podSandboxId } = await runtime.RunPodSandbox({ config, runtimeHandler: handler })
        configs.set(podSandboxId, config)
        return podHandle(context, podSandboxId, config)
      } catch (error) {
        if (cgroup !== undefined) await context.cgroups.remove(cgroup)
        throw error
      }
    },
    pod: (id, config) => podHandle(context, id, config),
    container: (id) => containerHandle(context, id),
    pods: async () => (await runtime.ListPodSandbox({})).items,
    containers: async () => (await runtime.ListContainers({})).containers,
    async removeAll() {
      for (const { id } of await cri.pods()) await podHandle(context, id, configs.get(id) ?? {}).remove()
      configs.clear()
    },
    close: () => connection.close(),
    [Symbol.dispose]: () => connection.close(),
  }
  return cri
}
