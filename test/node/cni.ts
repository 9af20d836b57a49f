/** The networks a node can give its pods. Each is one of CNI's own plugins with a file-backed pool of addresses. */

/** What the last plugin of a chain does in the pod's namespace, as another plugin might have; `$CNI_IFNAME` is its link. */
export interface CniScript {
  readonly add?: string
  readonly del?: string
}

export interface CniNetwork extends CniScript {
  /**
   * bridge: IPv4 on a bridge `cni0`, which is the gateway and the default. dual: IPv4 and IPv6 on `cni1`. ipv6: only
   * that, on `cni2`. ptp: a pair whose host side routes. macvlan, ipvlan, vlan: on the node's device `uplink`. dummy: a link
   * that leads nowhere. host-device: the node's device `spare` itself.
   */
  readonly kind: 'bridge' | 'dual' | 'ipv6' | 'ptp' | 'macvlan' | 'ipvlan' | 'vlan' | 'dummy' | 'host-device'
  readonly mtu?: number
}

/** The subnet of each kind, by family. */
export const subnets = {
  bridge: { ipv4: '10.88.0.0/16' },
  dual: { ipv4: '10.89.0.0/24', ipv6: 'fd00:89::/64' },
  ipv6: { ipv6: 'fd00:90::/64' },
  ptp: { ipv4: '10.91.0.0/24' },
  macvlan: { ipv4: '10.92.0.0/24' },
  ipvlan: { ipv4: '10.93.0.0/24' },
  vlan: { ipv4: '10.94.0.0/24' },
  dummy: { ipv4: '10.95.0.0/24' },
  'host-device': { ipv4: '10.96.1.0/24' },
} as const satisfies Record<CniNetwork['kind'], { readonly ipv4?: string; readonly ipv6?: string }>

/** The plugin that runs a network's script: cni-script.ts, linked to where CNI looks for plugins. */
export const scriptPlugin = 'kuasar-script'

/** The device that the pods of macvlan, ipvlan and vlan are on. It leads nowhere; they reach each other. */
export const uplink = 'uplink'

/** The vlan's tag. The kernel has each once for a device, so one pod at a time has it. */
export const vlanId = 7

/** The device that host-device moves into its pod. */
export const spare = 'spare'

/** Of the network, as CRI reports it. */
export const networkName = ({ kind }: CniNetwork): string => (kind === 'bridge' ? 'node' : `node-${kind}`)

/** A conflist. */
export function cniConfig(network: CniNetwork = { kind: 'bridge' }): string {
  const { add, del } = network
  const script = add === undefined && del === undefined ? [] : [{ type: scriptPlugin, add, del }]
  return JSON.stringify({ cniVersion: '1.0.0', name: networkName(network), plugins: [interfacePlugin(network), ...script] }, null, 2)
}

function interfacePlugin({ kind, mtu }: CniNetwork): object {
  const base = { ...(mtu === undefined ? {} : { mtu }), ipam: ipam(kind) }
  if (kind === 'ptp') return { type: 'ptp', ipMasq: false, ...base }
  if (kind === 'macvlan') return { type: 'macvlan', master: uplink, mode: 'bridge', ...base }
  if (kind === 'ipvlan') return { type: 'ipvlan', master: uplink, mode: 'l2', ...base }
  if (kind === 'vlan') return { type: 'vlan', master: uplink, vlanId, ...base }
  if (kind === 'dummy') return { type: 'dummy', ...base }
  if (kind === 'host-device') return { type: 'host-device', device: spare, ...base }
  return { type: 'bridge', bridge: { bridge: 'cni0', dual: 'cni1', ipv6: 'cni2' }[kind], isGateway: true, ipMasq: false, ...base }
}

function ipam(kind: CniNetwork['kind']): object {
  const { ipv4, ipv6 }: { readonly ipv4?: string; readonly ipv6?: string } = subnets[kind]
  const families = [
    ...(ipv4 === undefined ? [] : [{ subnet: ipv4, route: { dst: '0.0.0.0/0' } }]),
    ...(ipv6 === undefined ? [] : [{ subnet: ipv6, route: { dst: '::/0' } }]),
  ]
  return { type: 'host-local', ranges: families.map(({ subnet }) => [{ subnet }]), routes: families.map(({ route }) => route) }
}
