/** Pod and container configurations with the defaults a kubelet would fill in. */

import { randomUUID } from 'node:crypto'
import { images } from '#test/images/catalog.ts'
import type { MessageIn } from '#shared/rpc/any.ts'

export type PodSandboxConfig = MessageIn<'runtime.v1.PodSandboxConfig'>
export type ContainerConfig = MessageIn<'runtime.v1.ContainerConfig'>

export interface PodOptions {
  readonly name?: string
  readonly namespace?: string
  /** Counts restarts of one pod. */
  readonly attempt?: number
  readonly hostname?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly dns?: MessageIn<'runtime.v1.DNSConfig'>
  /** Over the defaults: a cgroup parent of the pod's own, private namespaces. */
  readonly linux?: MessageIn<'runtime.v1.LinuxPodSandboxConfig'>
}

/** With what every pod of podConfig's has. */
type WholePodConfig = PodSandboxConfig & {
  readonly logDirectory: string
  readonly linux: { readonly cgroupParent: string }
}

/** A pod of its own cgroup and log directory, as the kubelet names them. */
export function podConfig(options: PodOptions = {}): WholePodConfig {
  const uid = randomUUID()
  const name = options.name ?? `pod-${uid.slice(0, 8)}`
  const namespace = options.namespace ?? 'default'
  return {
    metadata: { name, namespace, uid, attempt: options.attempt ?? 0 },
    hostname: options.hostname ?? name,
    logDirectory: `/var/log/pods/${namespace}_${name}_${uid}`,
    dnsConfig: options.dns ?? { servers: ['10.96.0.10'], searches: ['default.svc.cluster.local'], options: ['ndots:5'] },
    labels: { 'io.kubernetes.pod.name': name, ...options.labels },
    annotations: { ...options.annotations },
    linux: { cgroupParent: `/kubepods/pod${uid}`, ...options.linux },
  }
}

/** True for a whole configuration, which is used as it is. */
export function isPodConfig(given: PodOptions | PodSandboxConfig): given is PodSandboxConfig {
  return 'metadata' in given
}

export interface ContainerOptions {
  readonly name?: string
  /** Default busybox. */
  readonly image?: string
  /** Replaces the image's entry point. */
  readonly command?: readonly string[]
  readonly args?: readonly string[]
  readonly workingDir?: string
  readonly env?: Readonly<Record<string, string>>
  readonly mounts?: readonly MessageIn<'runtime.v1.Mount'>[]
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  /** Keeps standard input open for attach. */
  readonly stdin?: boolean
  /** Ends standard input with the first attach. */
  readonly stdinOnce?: boolean
  readonly tty?: boolean
  readonly attempt?: number
  readonly resources?: MessageIn<'runtime.v1.LinuxContainerResources'>
  readonly security?: MessageIn<'runtime.v1.LinuxContainerSecurityContext'>
}

/** A container whose log is `<name>/<attempt>.log` below its pod's log directory. */
export function containerConfig(options: ContainerOptions = {}): ContainerConfig & { readonly logPath: string } {
  const name = options.name ?? `container-${randomUUID().slice(0, 8)}`
  const attempt = options.attempt ?? 0
  return {
    metadata: { name, attempt },
    image: { image: options.image ?? images.busybox },
    command: [...(options.command ?? [])],
    args: [...(options.args ?? [])],
    workingDir: options.workingDir ?? '',
    envs: Object.entries(options.env ?? {}).map(([key, value]) => ({ key, value })),
    mounts: [...(options.mounts ?? [])],
    labels: { 'io.kubernetes.container.name': name, ...options.labels },
    annotations: { ...options.annotations },
    logPath: `${name}/${attempt}.log`,
    stdin: options.stdin ?? false,
    stdinOnce: options.stdinOnce ?? false,
    tty: options.tty ?? false,
    linux: {
      ...(options.resources === undefined ? {} : { resources: options.resources }),
      // CRI's default is the pod's pid namespace (POD); the kubelet asks for CONTAINER unless told to share.
      securityContext: { namespaceOptions: { pid: 'CONTAINER' }, ...options.security },
    },
  }
}

/** True for a whole configuration, which is used as it is. */
export function isContainerConfig(given: ContainerOptions | ContainerConfig): given is ContainerConfig {
  return 'metadata' in given
}
