/** From iproute2's JSON to taps and to what the guest is told, and what is refused by name. */
import t from 'tap'
import { parseNetwork } from '#host/network/discover.ts'
import { batchFailure } from '#host/network/tap.ts'
import { carriedKinds, planNetwork, withinCards } from '#host/network/plan.ts'

const loopback = { ifname: 'lo', flags: ['LOOPBACK', 'UP'], mtu: 65536, link_type: '[772]', address: '00:00:00:00:00:00', addr_info: [] }
const veth = {
  ifname: 'eth0', link_index: 7, link_netnsid: 0, flags: ['BROADCAST', 'UP'], mtu: 1450, link_type: '[1]', address: '02:00:00:00:00:01', linkinfo: { info_kind: 'veth' },
  addr_info: [
    { family: 'inet', local: '10.88.0.5', prefixlen: 16, broadcast: '10.88.255.255', scope: '0' },
    { family: 'inet6', local: 'fe80::1', prefixlen: 64, scope: '253', tentative: true, deprecated: true, protocol: '0x3' },
  ],
}
const main = { type: '1', dst: 'default', table: '254', protocol: '3', scope: '0', flags: [] }

interface Lists {
  readonly links?: readonly object[]
  readonly routes?: readonly object[]
  readonly neighbours?: readonly object[]
  readonly qdiscs?: readonly object[]
}

const parse = ({ links = [loopback, veth], routes = [], neighbours = [], qdiscs = [] }: Lists) =>
  parseNetwork([links, routes, neighbours, qdiscs].map((list) => JSON.stringify(list)).join('\n'))
const plan = (lists: Lists, vcpus = 1) => planNetwork(parse(lists), vcpus)

t.test('a veth: its tap, and all it has', async (t) => {
  const { taps, guest } = plan({
    routes: [
      { ...main, gateway: '10.88.0.1', dev: 'eth0' },
      { ...main, dst: '10.88.0.0/16', dev: 'eth0', protocol: '2', scope: '253', prefsrc: '10.88.0.5' },
      { ...main, dst: '10.10.0.1', via: { family: 'inet6', host: 'fd00::1' }, dev: 'eth0', flags: ['onlink'], metrics: [{ mtu: 1400, advmss: 1300 }] },
      { ...main, dst: '10.9.0.0/16', nexthops: [{ gateway: '10.88.0.1', dev: 'eth0', weight: 2, flags: [] }, { gateway: '10.88.0.2', dev: 'eth0', weight: 1, flags: [] }] },
      { ...main, type: '6', dst: '10.11.0.0/16' },
      { ...main, gateway: 'fd00::1', dev: 'eth0', metric: 1024, pref: 'high' },
      { ...main, type: '7', dst: 'fd01::5', dev: 'lo', metric: 9, pref: 'medium' },
      { ...main, type: '2', dst: '10.88.0.5', dev: 'eth0', table: '255' },
    ],
    neighbours: [{ dst: '10.88.0.1', dev: 'eth0', lladdr: '02:00:00:00:00:09', state: ['PERMANENT'] }],
  })
  t.strictSame(taps, [{ name: 'kuasar-tap0', uplink: 'eth0', mac: '02:00:00:00:00:01', mtu: 1450, queues: 1 }])
  const route = { family: 4, type: 'unicast', hops: [], source: '', metric: 0, scope: 0, protocol: 3, mtu: 0, advmss: 0, preference: 'medium' } as const
  const hop = { link: 'eth0', gateway: '', weight: 1, onlink: false }
  t.strictSame(guest, {
    links: [
      {
        name: 'eth0', mac: '02:00:00:00:00:01', mtu: 1450, down: false, noarp: false,
        addresses: [
          { local: '10.88.0.5/16', peer: '', broadcast: '10.88.255.255', scope: 0, deprecated: false },
          { local: 'fe80::1/64', peer: '', broadcast: '', scope: 253, deprecated: true },
        ],
      },
    ],
    routes: [
      { ...route, destination: '', hops: [{ ...hop, gateway: '10.88.0.1' }] },
      { ...route, destination: '10.88.0.0/16', hops: [hop], source: '10.88.0.5', scope: 253, protocol: 2 },
      { ...route, destination: '10.10.0.1/32', hops: [{ ...hop, gateway: 'fd00::1', onlink: true }], mtu: 1400, advmss: 1300 },
      { ...route, destination: '10.9.0.0/16', hops: [{ ...hop, gateway: '10.88.0.1', weight: 2 }, { ...hop, gateway: '10.88.0.2' }] },
      { ...route, destination: '10.11.0.0/16', type: 'blackhole' },
      { ...route, family: 6, destination: '', hops: [{ ...hop, gateway: 'fd00::1' }], metric: 1024, preference: 'high' },
      { ...route, family: 6, destination: 'fd01::5/128', type: 'unreachable', metric: 9 },
    ],
    neighbours: [{ address: '10.88.0.1', mac: '02:00:00:00:00:09', link: 'eth0' }],
  })
})

t.test('loopback alone, and what the kernel put there, is no network', async (t) => {
  const fallback = { ifname: 'tunl0', flags: ['NOARP'], mtu: 1480, link_type: '[768]', address: '0.0.0.0', linkinfo: { info_kind: 'ipip' } }
  t.strictSame(plan({ links: [loopback, fallback] }), { taps: [], guest: { links: [], routes: [], neighbours: [] } })
  const idle = { ...veth, flags: ['BROADCAST'], addr_info: [] }
  t.match(plan({ links: [idle] }), { taps: [{ uplink: 'eth0' }], guest: { links: [{ name: 'eth0', down: true }] } }, 'what somebody made is carried, idle or not')
  t.throws(() => plan({ links: [{ ...idle, linkinfo: {} }] }), { message: /eth0 of the pod is a physical device/ })
  for (const used of [{ flags: ['UP'] }, { addr_info: veth.addr_info }])
    t.throws(() => plan({ links: [{ ...fallback, ...used }] }), { message: /tunl0 of the pod is of kind ipip/ })
})

t.test('several links, equal MACs, a name that is taken, several processors', async (t) => {
  const tap = { ...veth, ifname: 'kuasar-tap0', linkinfo: { info_kind: 'tun', info_data: { type: 'tap' } } }
  const { taps, guest } = plan({ links: [veth, { ...veth, ifname: 'net1', linkinfo: { info_kind: 'macvlan' } }, tap] }, 64)
  t.strictSame(taps.map(({ name, uplink, queues }) => ({ name, uplink, queues })), [
    { name: 'kuasar-tap1', uplink: 'eth0', queues: 16 },
    { name: 'kuasar-tap2', uplink: 'net1', queues: 16 },
    { name: 'kuasar-tap3', uplink: 'kuasar-tap0', queues: 16 },
  ])
  t.strictSame(guest.links.map(({ name }) => name), ['eth0', 'net1', 'kuasar-tap0'])
})

t.test('every kind that is carried', async (t) => {
  for (const kind of carriedKinds.filter((each) => each !== 'tap')) t.equal(plan({ links: [{ ...veth, linkinfo: { info_kind: kind } }] }).taps.length, 1, kind)
  const l3 = plan({ links: [{ ...veth, flags: ['UP', 'NOARP'], linkinfo: { info_kind: 'ipvlan' } }] })
  t.match(l3.guest.links, [{ noarp: true }])
})

for (const [about, links, message] of [
  ['a physical device', [{ ...veth, linkinfo: undefined }], /^network interface eth0 of the pod is a physical device: pass-through does not exist yet/],
  ['a kind that cannot be carried', [{ ...veth, linkinfo: { info_kind: 'wireguard' } }], /interface eth0 .* kind wireguard.*expected one of veth, macvlan/],
  ['a tun', [{ ...veth, link_type: '[65534]', linkinfo: { info_kind: 'tun', info_data: { type: 'tun' } } }], /eth0 .* kind tun/],
  ['a vlan on a carried link', [veth, { ...veth, ifname: 'eth0.5', link: 'eth0', link_netnsid: undefined, linkinfo: { info_kind: 'vlan' } }], /interface eth0\.5 .* lies on eth0/],
  ['a port of a bridge', [{ ...veth, master: 'br0' }], /interface eth0 .* lies on br0/],
  ['an address somebody else has', [{ ...veth, addr_info: [{ family: 'inet6', local: 'fd00::1', prefixlen: 64, scope: '0', dadfailed: true }] }], /eth0 .* has the address fd00::1, which another/],
  ['a name that breaks a batch', [{ ...veth, ifname: 'eth#0' }], /interface eth#0 .* name that cannot be handed on/],
  ['too many', Array.from({ length: 17 }, (_, index) => ({ ...veth, ifname: `net${index}` })), /17 network interfaces \(net0, .*takes 16/],
] as const)
  t.test(`refused by name: ${about}`, async (t) => {
    t.throws(() => plan({ links }), { code: 'FAILED_PRECONDITION', message })
  })

for (const [about, route, message] of [
  ['another table', { table: '100', dst: '1.2.3.0/24' }, /IPv4 route to 1\.2\.3\.0\/24 is in table 100/],
  ['an encapsulation', { dst: 'fd00::/64', pref: 'medium', encap: 'mpls' }, /IPv6 route to fd00::\/64 has encap/],
  ['a type of service', { tos: '0x10' }, /IPv4 route to default has tos/],
  ['a metric nobody hands on', { metrics: [{ rtt: '10ms' }] }, /has rtt/],
  ['a type', { type: '10' }, /has type 10/],
  ['a realm', { flow: { to: '5' } }, /has flow/],
] as const)
  t.test(`a route refused by name: ${about}`, async (t) => {
    t.throws(() => plan({ routes: [{ ...main, dev: 'eth0', gateway: '10.88.0.1', ...route }] }), { code: 'FAILED_PRECONDITION', message })
  })

t.test('a qdisc for incoming frames is somebody else\'s', async (t) => {
  for (const kind of ['ingress', 'clsact']) t.throws(() => plan({ qdiscs: [{ kind, dev: 'eth0' }] }), { message: /eth0 of the pod already has a qdisc for incoming frames/ })
  t.equal(plan({ qdiscs: [{ kind: 'noqueue', dev: 'eth0' }, { kind: 'ingress', dev: 'lo' }] }).taps.length, 1)
})

t.test('what iproute2 says is checked', async (t) => {
  t.throws(() => parseNetwork(''), { code: 'INTERNAL', message: /list of qdiscs is not JSON/ })
  t.throws(() => parse({ links: [{ ...veth, mtu: 'large' }] }), { message: /list of links is not as expected at 0\.mtu/ })
  t.throws(() => parse({ routes: [{ ...main, table: 'main' }] }), { message: /list of routes is not as expected at 0\.table/ })
})

t.test('looked at again: what a running guest cannot have is named, and the rest goes on', async (t) => {
  const found = parse({
    links: [
      loopback,
      veth,
      { ...veth, ifname: 'net1', address: '02:00:00:00:00:02' },
      { ...veth, ifname: 'br7', linkinfo: { info_kind: 'bridge' } },
      { ...veth, ifname: 'net2', address: '02:00:00:00:00:03', master: 'br7' },
    ],
    routes: [
      { ...main, dev: 'net1' },
      { ...main, dst: '10.0.0.0/8', dev: 'eth0' },
      { ...main, dst: '10.7.0.0/16', dev: 'br7', table: '100' },
      { ...main, dst: '10.8.0.0/16', dev: 'eth0', table: '100' },
      { ...main, dst: '10.9.0.0/16', dev: 'net2' },
    ],
    neighbours: [{ dst: '10.88.0.1', dev: 'net1', lladdr: '02:00:00:00:00:09' }],
  })
  const { network, without } = withinCards(found, [{ name: 'eth0', mac: '02:00:00:00:00:01' }, { name: 'net2', mac: '02:00:00:00:00:03' }])
  t.match(without, [
    /^network interface net1 of the pod came, or changed its MAC, after the start/,
    /^network interface br7 of the pod is of kind bridge/,
    /^network interface net2 of the pod lies on br7/,
    /IPv4 route to 10\.8\.0\.0\/16 is in table 100/,
  ])
  t.equal(without.length, 4)
  t.strictSame([network.links.map(({ name }) => name), network.routes.map(({ destination }) => destination), network.neighbours], [['eth0', 'net2'], ['10.0.0.0/8', '10.9.0.0/16'], []])
  const routes = Array.from({ length: 4097 }, (_, index) => ({ ...main, dst: `10.${index >> 8}.${index & 255}.0/24`, dev: 'eth0' }))
  t.throws(() => withinCards(parse({ routes }), []), { message: /4097 routes; a sandbox takes 4096/ })
  t.throws(() => plan({ routes }), { message: /4097 routes; a sandbox takes 4096/ })
})

t.test('a batch that failed names its line', async (t) => {
  t.equal(batchFailure('ip', ['a', 'link set dev x up'], 'Cannot find device "x"\nCommand failed -:2\n'), 'ip link set dev x up: Cannot find device "x"')
  t.equal(batchFailure('tc', [], 'sh: tc: not found'), 'tc -batch: sh: tc: not found')
})
