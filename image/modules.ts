/** Which kernel modules the guest loads, and in which order. */
import { readFile, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { moduleInfo } from './elf.ts'

/** What stage 1 of init needs to reach the root: the disk and its file system. */
export const initramfsModules = ['virtio_pci', 'virtio_blk', 'erofs'] as const

/** What stage 2 loads before the agent starts: the guest link, the share, container roots, the network. */
export const rootModules = ['vmw_vsock_virtio_transport', 'virtiofs', 'overlay', 'virtio_net'] as const

/** Kinds of network devices. */
const devices = ['bridge', 'dummy', 'ipvlan', 'macvlan', '8021q', 'veth', 'tun']

/**
 * What nft and iptables (its nft form) ask for: filters, NAT, redirection, as meshes and pods that run containers themselves do. The
 * old iptables asks modprobe(8) in its own container, which has no modules to give, and cannot work.
 */
const netfilter = [
  'nfnetlink', 'nf_tables', 'nf_conntrack_netlink', 'nf_log_syslog', 'nft_chain_nat', 'nft_compat', 'nft_connlimit', 'nft_ct', 'nft_fib_inet', 'nft_hash', 'nft_limit',
  'nft_log', 'nft_masq', 'nft_nat', 'nft_numgen', 'nft_objref', 'nft_quota', 'nft_redir', 'nft_reject_inet', 'nft_socket', 'nft_tproxy', 'ipt_REJECT', 'ip6t_REJECT',
  'xt_CT', 'xt_LOG', 'xt_MASQUERADE', 'xt_REDIRECT', 'xt_TCPMSS', 'xt_TPROXY', 'xt_addrtype', 'xt_cgroup', 'xt_comment', 'xt_connmark', 'xt_conntrack', 'xt_hashlimit',
  'xt_length', 'xt_limit', 'xt_mark', 'xt_multiport', 'xt_nat', 'xt_owner', 'xt_pkttype', 'xt_recent', 'xt_set', 'xt_socket', 'xt_state', 'xt_statistic', 'xt_tcpudp',
  'ip_set', 'ip_set_hash_ip', 'ip_set_hash_net', 'ip_set_hash_ipport', 'ip_set_bitmap_port', 'ip_set_list_set',
]

/** What is loaded when a container with the right to asks the kernel for it. */
export const demandModules: readonly string[] = [...devices, ...netfilter]

/** Modules of a kernel by name; names are compared with "-" as "_", as the kernel does. */
export interface ModuleTree {
  readonly paths: ReadonlyMap<string, string>
  readonly builtin: ReadonlySet<string>
}

export async function readModuleTree(directory: string): Promise<ModuleTree> {
  const files = await readdir(directory, { recursive: true })
  const paths = new Map(files.filter((file) => file.endsWith('.ko')).map((file) => [moduleName(file), join(directory, file)]))
  const builtin = (await readFile(join(directory, 'modules.builtin'), 'utf8')).split('\n').filter((line) => line !== '')
  return { paths, builtin: new Set(builtin.map(moduleName)) }
}

export interface Module {
  readonly name: string
  readonly path: string
}

/** The wanted modules and all they depend on, dependencies first, without `loaded` ones. Errors name a missing module. */
export async function moduleClosure(tree: ModuleTree, wanted: readonly string[], loaded: readonly Module[] = []): Promise<Module[]> {
  const done = new Set(loaded.map((module) => module.name))
  const order: Module[] = []
  const visit = async (name: string, neededBy: string) => {
    if (done.has(name) || tree.builtin.has(name)) return
    done.add(name)
    const path = tree.paths.get(name)
    if (path === undefined) throw new Error(`the kernel has no module ${name}, which ${neededBy} needs`)
    const { hard, soft } = dependencies(await readFile(path))
    // A soft dependency may be an alias ("crc32c") that built-in code answers to; without it the module still works.
    for (const dependency of soft) if (tree.paths.has(dependency)) await visit(dependency, name)
    for (const dependency of hard) await visit(dependency, name)
    order.push({ name, path })
  }
  for (const name of wanted) await visit(moduleName(name), 'the image')
  return order
}

/**
 * The list that init reads when the kernel asks for a module: a line `NAME PATH` for every name the kernel may use and
 * every module that loads for it, in order. Names with patterns are left out.
 */
export async function demandList(tree: ModuleTree, loaded: readonly Module[], pathOf: (module: Module) => string): Promise<string> {
  const lines: string[] = []
  for (const wanted of demandModules) {
    const closure = await moduleClosure(tree, [wanted], loaded)
    const own = closure.at(-1)
    // Built in, or among those that are always loaded.
    if (own === undefined) continue
    const aliases = moduleInfo(await readFile(own.path)).flatMap(([key, value]) => (key === 'alias' ? [value] : []))
    const names = [own.name, ...aliases.filter((alias) => /^[\w-]+$/.test(alias))]
    for (const name of new Set(names)) lines.push(...closure.map((module) => `${name} ${pathOf(module)}\n`))
  }
  return lines.join('')
}

/** What modinfo requires ("depends"), and what it asks to be loaded before ("softdep: pre: …"). */
function dependencies(file: Buffer): { readonly hard: string[]; readonly soft: string[] } {
  const values = (wanted: string) => moduleInfo(file).flatMap(([key, value]) => (key === wanted ? [value] : []))
  const hard = values('depends').flatMap((value) => value.split(','))
  const soft = values('softdep').flatMap((value) => value.split('post:')[0]?.replace('pre:', '').split(' ') ?? [])
  return { hard: moduleNames(hard), soft: moduleNames(soft) }
}

function moduleNames(words: readonly string[]): string[] {
  return words.filter((word) => word !== '').map(moduleName)
}

function moduleName(path: string): string {
  return basename(path, '.ko').replaceAll('-', '_')
}
