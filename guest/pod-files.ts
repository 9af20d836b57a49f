/** The files every container of a pod sees, and where the guest keeps them. Pure. */
import { RuntimeError } from '#shared/errors.ts'
import type { PodConfig } from './pod.ts'

export interface PodPaths {
  readonly dir: string
  readonly hosts: string
  readonly hostname: string
  readonly resolvConf: string
  readonly shm: string
}

/** Below the agent's run directory. */
export function podPaths(run: string): PodPaths {
  const dir = `${run}/pod`
  return { dir, hosts: `${dir}/hosts`, hostname: `${dir}/hostname`, resolvConf: `${dir}/resolv.conf`, shm: `${dir}/shm` }
}

/** hosts(5). Kubelet mounts its own over it wherever it knows the pod's address. */
export function hostsFile(hostname: string, lines: readonly string[]): string {
  const own = hostname === '' ? [] : [`127.0.1.1\t${hostname}`]
  return ['127.0.0.1\tlocalhost', '::1\tlocalhost ip6-localhost ip6-loopback', ...(lines.length === 0 ? own : lines), ''].join('\n')
}

/** resolv.conf(5). */
export function resolvConf({ servers, searches, options }: PodConfig['dns']): string {
  const lines = [
    ...(searches.length === 0 ? [] : [`search ${searches.join(' ')}`]),
    ...servers.map((server) => `nameserver ${server}`),
    ...(options.length === 0 ? [] : [`options ${options.join(' ')}`]),
  ]
  return lines.map((line) => `${line}\n`).join('')
}

/**
 * Where a kernel parameter is, from its dotted or slashed name: as in sysctl(8), the separator that comes first decides,
 * and the other one is part of a component ("net.ipv4.conf.eth0/1.forwarding").
 */
export function sysctlPath(root: string, name: string): string {
  const [slash, dot] = [name.indexOf('/'), name.indexOf('.')]
  const slashed = slash >= 0 && (dot < 0 || slash < dot)
  const parts = slashed ? name.split('/') : name.split('.').map((part) => part.replaceAll('/', '.'))
  if (parts.length < 2 || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw new RuntimeError('INVALID_ARGUMENT', `sysctl ${JSON.stringify(name)}: expected a name like "net.core.somaxconn"`)
  }
  return `${root}/${parts.join('/')}`
}
