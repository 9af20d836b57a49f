/** What `ip` is asked in the guest. */
import t from 'tap'
import { changeCommands, setUpCommands, withEveryCard } from '#guest/network/plan.ts'
import type { Address, Hop, Link, PodNetwork, Route } from '#shared/network.ts'

const address = (local: string, more: Partial<Address> = {}): Address => ({ local, peer: '', broadcast: '', scope: 0, deprecated: false, ...more })
const link = (name: string, mac: string, more: Partial<Link> = {}): Link => ({ name, mac, mtu: 1500, addresses: [], down: false, noarp: false, ...more })
const hop = (device: string, gateway = '', more: Partial<Hop> = {}): Hop => ({ link: device, gateway, weight: 1, onlink: false, ...more })
const route = (destination: string, hops: readonly Hop[], more: Partial<Route> = {}): Route => ({
  destination, hops, family: 4, type: 'unicast', source: '', metric: 0, scope: 0, protocol: 3, mtu: 0, advmss: 0, preference: 'medium', ...more,
})
const a = '02:00:00:00:00:0a'
const b = '02:00:00:00:00:0b'

const names = (links: readonly Link[], devices: Parameters<typeof setUpCommands>[2]) =>
  setUpCommands({ links, routes: [], neighbours: [] }, [], devices).filter((command) => command.includes(' name '))

const eth0: PodNetwork = {
  links: [link('eth0', a, { mtu: 1450, addresses: [address('10.0.0.2/24', { broadcast: '10.0.0.255' }), address('fd00::2/64', { deprecated: true }), address('10.9.0.1', { peer: '10.9.0.2/32', scope: 253 })] })],
  neighbours: [{ address: '10.0.0.1', mac: '02:00:00:00:00:01', link: 'eth0' }],
  routes: [
    route('', [hop('eth0', '10.0.0.1')]),
    route('10.0.0.0/24', [hop('eth0')], { scope: 253, protocol: 2, source: '10.0.0.2' }),
    route('', [hop('eth0', 'fe80::1', { onlink: true })], { family: 6, metric: 1024, preference: 'low' }),
    route('10.1.0.0/16', [hop('eth0', '10.0.0.3'), hop('eth0', 'fd00::9', { weight: 3 })], { metric: 5, mtu: 1400, advmss: 1300 }),
    route('10.2.0.0/16', [], { type: 'blackhole' }),
  ],
}

t.test('links, addresses, neighbours, on-link routes, then those by a gateway', async (t) => {
  t.strictSame(setUpCommands(eth0, [], [{ name: 'eth0', mac: a }]), [
    'link set dev eth0 mtu 1450 arp on up',
    'address add 10.0.0.2/24 broadcast 10.0.0.255 scope 0 noprefixroute dev eth0',
    'address add fd00::2/64 nodad noprefixroute preferred_lft 0 dev eth0',
    'address add 10.9.0.1 peer 10.9.0.2/32 scope 253 noprefixroute dev eth0',
    'neighbour replace 10.0.0.1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent',
    'route append 10.0.0.0/24 dev eth0 src 10.0.0.2 scope 253 proto 2',
    'route append blackhole 10.2.0.0/16 proto 3',
    'route append 0.0.0.0/0 via 10.0.0.1 dev eth0 scope 0 proto 3',
    'route append ::/0 via fe80::1 dev eth0 onlink metric 1024 proto 3 pref low',
    'route append 10.1.0.0/16 metric 5 scope 0 proto 3 mtu 1400 advmss 1300 nexthop via 10.0.0.3 dev eth0 weight 1 nexthop via inet6 fd00::9 dev eth0 weight 3',
  ])
})

t.test('links are found by MAC and named; equal MACs by their order; names may change places', async (t) => {
  t.strictSame(names([link('eth0', a), link('net1', b)], [{ name: 'eth0', mac: a }, { name: 'eth1', mac: b }]), ['link set dev eth1 name net1'])
  t.strictSame(names([link('eth0', b), link('eth1', a)], [{ name: 'eth0', mac: a }, { name: 'eth1', mac: b }]), [
    'link set dev eth1 name kuasar-aside0',
    'link set dev eth0 name kuasar-aside1',
    'link set dev kuasar-aside0 name eth0',
    'link set dev kuasar-aside1 name eth1',
  ])
  t.strictSame(names([link('x', a), link('y', a)], [{ name: 'eth0', mac: a }, { name: 'eth1', mac: a }]), ['link set dev eth0 name x', 'link set dev eth1 name y'])
  t.throws(() => setUpCommands(eth0, [], [{ name: 'eth0', mac: b }]), { code: 'NOT_FOUND', message: `no network card has the MAC ${a} of eth0; there are eth0 (${b})` })
})

t.test('the card of a VM older than its pod takes the link’s name and MAC before it is up', async (t) => {
  t.strictSame(setUpCommands({ links: [link('eth0', a)], routes: [], neighbours: [] }, [b], [{ name: 'eth5', mac: b }]), [
    'link set dev eth5 name eth0',
    `link set dev eth0 address ${a}`,
    'link set dev eth0 mtu 1500 arp on up',
  ])
  t.throws(() => setUpCommands({ links: [link('eth0', a)], routes: [], neighbours: [] }, [b], [{ name: 'eth0', mac: a }]), { code: 'NOT_FOUND', message: `no network card has the MAC ${b} of eth0; there are eth0 (${a})` })
})

t.test('a change is what differs, taken away before it is added', async (t) => {
  t.strictSame(changeCommands(eth0, structuredClone(eth0)), [])
  const [first = link('eth0', a)] = eth0.links
  const changed: PodNetwork = {
    links: [{ ...first, mtu: 1400, addresses: [address('10.0.0.9/24'), ...first.addresses.slice(1)] }],
    neighbours: [],
    routes: [...eth0.routes.slice(2), route('', [hop('eth0', '10.0.0.254')])],
  }
  t.strictSame(changeCommands(eth0, changed), [
    'route del 0.0.0.0/0 via 10.0.0.1 dev eth0 scope 0 proto 3',
    'route del 10.0.0.0/24 dev eth0 src 10.0.0.2 scope 253 proto 2',
    'neighbour del 10.0.0.1 dev eth0',
    'address del 10.0.0.2/24 dev eth0',
    'link set dev eth0 mtu 1400 arp on up',
    'address add 10.0.0.9/24 scope 0 noprefixroute dev eth0',
    'route append 0.0.0.0/0 via 10.0.0.254 dev eth0 scope 0 proto 3',
  ])
  const none = { links: [], routes: [], neighbours: [] }
  t.strictSame(changeCommands({ ...eth0, routes: [], neighbours: [] }, withEveryCard(none, eth0.links)), [
    'address del 10.0.0.2/24 dev eth0',
    'address del fd00::2/64 dev eth0',
    'address del 10.9.0.1 peer 10.9.0.2/32 dev eth0',
    'link set dev eth0 mtu 1450 arp on down',
  ])
  t.throws(() => changeCommands(eth0, { ...eth0, links: [...eth0.links, link('net1', b)] }), { code: 'FAILED_PRECONDITION', message: /net1 \(02:00:00:00:00:0b\) is new/ })
})
