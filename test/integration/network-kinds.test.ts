/** Every network of CNI's that a node can have: the guest gets it exactly, is reached by each address, and resolves names by it. */
import t from 'tap'
import { networkName, uplink } from '#test/node/cni.ts'
import type { CniNetwork } from '#test/node/cni.ts'
import { ask, cniTables, dnsServer, guestTables, netnsOf, sameTables, server } from '#test/support/network.ts'
import { inside, microvm, startKuasar } from '#test/support/kuasar.ts'

const nodePort = 8080
const domain = 'node.test'

interface Expected {
  readonly network: CniNetwork
  /** Of a pod, in CRI's order */
  readonly addresses: readonly RegExp[]
  /** Of the node, from the pod */
  readonly node: { readonly ipv4?: string; readonly ipv6?: string }
  readonly link: RegExp
  readonly routes: readonly RegExp[]
  /** What the pod next to it is run by */
  readonly beside: string
}

const networks: readonly Expected[] = [
  {
    network: { kind: 'dual', mtu: 1400 },
    addresses: [/^10\.89\./, /^fd00:89::/],
    node: { ipv4: '10.89.0.1', ipv6: 'fd00:89::1' },
    link: / mtu 1400 [^]* veth /,
    routes: [/^default via 10\.89\.0\.1 dev eth0/, /^default via fd00:89::1 dev eth0/],
    beside: 'runc',
  },
  {
    network: { kind: 'ipv6' },
    addresses: [/^fd00:90::/],
    node: { ipv6: 'fd00:90::1' },
    link: / veth /,
    routes: [/^default via fd00:90::1 dev eth0/],
    beside: 'runc',
  },
  {
    network: { kind: 'ptp' },
    addresses: [/^10\.91\./],
    node: { ipv4: '10.91.0.1' },
    link: / veth /,
    // The node is the next hop even within the pods' own subnet.
    routes: [/^10\.91\.0\.0\/24 via 10\.91\.0\.1 dev eth0/, /^10\.91\.0\.1 dev eth0 scope link/],
    beside: 'runc',
  },
  {
    network: { kind: 'macvlan' },
    addresses: [/^10\.92\./],
    node: { ipv4: '10.92.0.1' },
    link: / macvlan mode bridge /,
    routes: [/^10\.92\.0\.0\/24 dev eth0/],
    beside: microvm,
  },
]

const kuasar = await startKuasar({ containerd: { network: { kind: 'dual', mtu: 1400 } } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { containerd, node } = kuasar
// The device a macvlan lies on, and the node itself on that device's network.
await kuasar.sh(`ip link add ${uplink} type veth peer name ${uplink}-node
ip addr add 10.92.0.1/24 dev ${uplink}-node
ip link set ${uplink} up
ip link set ${uplink}-node up`)
const httpd = await node.start({ name: 'httpd', command: 'sh', args: ['-c', `mkdir -p /tmp/www && echo node >/tmp/www/index.html && exec busybox httpd -f -p ${nodePort} -h /tmp/www`] })
const zone = Object.fromEntries(networks.map(({ network: { kind }, node: addresses }) => [`${kind}.${domain}`, addresses]))
const dns = await node.start({ name: 'dns', command: 'node', args: ['-e', dnsServer(zone)] })

for (const { network, addresses: expected, node: own, link, routes, beside } of networks) {
  const { kind } = network
  t.test(networkName(network), async (t) => {
    await containerd.setNetwork(network)
    const resolver = { servers: Object.values(own), searches: [domain], options: [] }
    const [one, two] = await Promise.all([
      containerd.cri.runPod({ name: `${kind}-one`, dns: resolver }, microvm),
      containerd.cri.runPod({ name: `${kind}-two`, dns: resolver }, beside),
    ])
    const [first, second] = await Promise.all([one.run(server), two.run(server)])
    const [addresses, others] = await Promise.all([one, two].map(async (pod) => {
      const { network: status } = await pod.status()
      return [status?.ip ?? '', ...(status?.additionalIps ?? []).map(({ ip }) => ip)]
    }))
    t.match(addresses, expected)

    t.strictSame(...(await sameTables(() => guestTables(first), () => cniTables(kuasar, one))), 'the guest has what CNI gave')
    const given = await cniTables(kuasar, one)
    for (const route of routes) t.ok(given.routes.some((line) => route.test(line)), `${route} is in ${given.routes.join('; ')}`)
    t.match(await kuasar.sh(`nsenter --net=${await netnsOf(kuasar, one)} ip -oneline -details link show dev eth0`), link)

    for (const address of Object.values(own)) t.equal(await inside(first, ask(address, nodePort)), 'node', `pod to node, ${address}`)
    for (const address of addresses ?? []) {
      t.equal((await kuasar.sh(ask(address))).trim(), `${kind}-one`, `node to pod, ${address}`)
      t.equal(await inside(second, ask(address)), `${kind}-one`, `pod to pod, ${address}`)
    }
    for (const address of others ?? []) t.equal(await inside(first, ask(address)), `${kind}-two`, `and back, ${address}`)
    t.equal(await inside(first, ask(kind, nodePort)), 'node', `a name of ${domain}, from ${resolver.servers.join(', ')}`)
    await Promise.all([one.remove(), two.remove()])
  })
}

t.test('nothing is left', async (t) => {
  await Promise.all([httpd.stop(), dns.stop()])
  await kuasar.sh(`ip link delete ${uplink}; rm -rf /tmp/www`)
  t.strictSame(await kuasar.leaks(), [])
})
