/** Tests of test/unit/guest-network-apply.test.ts; they run in a network namespace of their own, with a /sys of it. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import t from 'tap'
import { Network } from '#guest/network/apply.ts'
import type { Hop, Link, PodNetwork, Route } from '#shared/network.ts'
import { createNativeOs } from '#shared/os/native.ts'

const sh = (script: string): string => execFileSync('sh', ['-euc', script], { encoding: 'utf8' })
const address = (local: string, deprecated = false) => ({ local, peer: '', broadcast: '', scope: 0, deprecated })
const link = (name: string, mac: string, addresses: Link['addresses'] = [], more: Partial<Link> = {}): Link => ({ name, mac, mtu: 1400, addresses, down: false, noarp: false, ...more })
const hop = (device: string, gateway = ''): Hop => ({ link: device, gateway, weight: 1, onlink: false })
const route = (destination: string, hops: readonly Hop[], more: Partial<Route> = {}): Route => ({
  destination, hops, family: 4, type: 'unicast', source: '', metric: 0, scope: 253, protocol: 3, mtu: 0, advmss: 0, preference: 'medium', ...more,
})
const [a, b] = ['02:00:00:00:00:0a', '02:00:00:00:00:0b']

sh(`ip link add eth0 type veth peer name eth1
ip link set eth0 address ${a}
ip link set eth1 address ${b}`)
const directory = mkdtempSync('/tmp/guest-network-')
t.teardown(() => rmSync(directory, { recursive: true }))
const { processes } = createNativeOs()
const network = new Network('/proc/sys', directory, processes)

const both: PodNetwork = {
  links: [
    link('eth1', a, [{ ...address('10.0.0.2/24'), broadcast: '10.0.0.255' }, address('fd00::2/64', true), { ...address('fe80::2/64'), scope: 253 }]),
    link('eth0', b, [{ ...address('fe80::3/64'), scope: 253 }, { ...address('10.8.0.1'), peer: '10.8.0.2/32' }]),
  ],
  neighbours: [{ address: '10.0.0.9', mac: a, link: 'eth1' }, { address: 'fd00::9', mac: a, link: 'eth1' }],
  routes: [
    route('', [hop('eth1', '10.0.0.1')], { scope: 0 }),
    route('10.0.0.0/24', [hop('eth1')], { source: '10.0.0.2', protocol: 2 }),
    route('10.3.0.0/16', [hop('eth1', '10.0.0.3'), { ...hop('eth1', '10.0.0.4'), weight: 3 }], { scope: 0, metric: 9 }),
    route('10.4.0.0/16', [], { type: 'unreachable', scope: 0 }),
    route('10.5.0.0/16', [{ ...hop('eth1', '192.0.2.1'), onlink: true }], { scope: 0, mtu: 1300, advmss: 1200 }),
    route('10.6.0.0/16', [hop('eth1', 'fd00::6')], { scope: 0 }),
    route('fe80::/64', [hop('eth1')], { family: 6, metric: 256, protocol: 2 }),
    route('fe80::/64', [hop('eth0')], { family: 6, metric: 256, protocol: 2 }),
    route('', [hop('eth1', 'fd00::1')], { family: 6, metric: 1024, preference: 'high' }),
    route('fd00::/64', [hop('eth1')], { family: 6, metric: 256 }),
  ],
}

t.test('at boot: names change places, and only what was told is there', async (t) => {
  await network.setUp(both, [])
  t.match(sh('cat /sys/class/net/eth1/address /sys/class/net/eth0/address'), `${a}\n${b}\n`)
  const addresses = sh('ip -br addr').trim().split('\n').slice(1).map((line) => line.replaceAll(/\s+/g, ' ').replaceAll(/@\w+|\b(UP|UNKNOWN|LOWERLAYERDOWN)\b/g, '').trim()).sort()
  t.strictSame(addresses, ['eth0  10.8.0.1 peer 10.8.0.2/32 fe80::3/64', 'eth1  10.0.0.2/24 fd00::2/64 fe80::2/64'])
  t.notMatch(sh('ip addr'), /tentative/)
  t.match(sh('ip -o addr show deprecated'), /^\S+ eth1 +inet6 fd00::2\/64 [^\n]*\n?$/)
  t.strictSame(sh('ip route; ip -6 route').replaceAll(/ (pref medium|linkdown)/g, '').replaceAll(/\s*\n\s*nexthop/g, ' nexthop').split('\n').map((line) => line.trim()).filter((line) => line !== '').sort(), [
    '10.0.0.0/24 dev eth1 proto kernel scope link src 10.0.0.2',
    '10.3.0.0/16 proto boot metric 9 nexthop via 10.0.0.3 dev eth1 weight 1 nexthop via 10.0.0.4 dev eth1 weight 3',
    '10.5.0.0/16 via 192.0.2.1 dev eth1 proto boot onlink mtu 1300 advmss 1200',
    '10.6.0.0/16 via inet6 fd00::6 dev eth1 proto boot',
    'default via 10.0.0.1 dev eth1 proto boot',
    'default via fd00::1 dev eth1 proto boot metric 1024 pref high',
    'fd00::/64 dev eth1 proto boot metric 256',
    'fe80::/64 dev eth0 proto kernel metric 256',
    'fe80::/64 dev eth1 proto kernel metric 256',
    'unreachable 10.4.0.0/16 proto boot',
  ].map((line) => line.replace(' proto boot', '')).sort())
  t.match(sh('ip neigh show nud permanent'), /10\.0\.0\.9 .*\n?.*fd00::9|fd00::9 .*\n?.*10\.0\.0\.9/)
  t.equal(readFileSync('/proc/sys/net/ipv6/conf/eth1/accept_ra', 'utf8'), '0\n')
})

t.test('a change is applied, and none is nothing', async (t) => {
  await network.update(structuredClone(both))
  const [first = link('', '')] = both.links
  const changed: PodNetwork = { links: [{ ...first, mtu: 1350, addresses: [address('10.0.7.7/24')] }], neighbours: [], routes: [route('10.0.7.0/24', [hop('eth1')])] }
  await network.update(changed)
  t.match(sh('ip route').trim(), /^10\.0\.7\.0\/24 dev eth1 scope link( linkdown)?$/)
  t.equal(sh('ip -6 route'), '')
  t.match(sh('ip -o addr show dev eth1'), /inet 10\.0\.7\.7\/24/)
  t.equal(sh('ip -o addr show dev eth1').trim().split('\n').length, 1)
  t.match(sh('ip link show eth0'), /state DOWN/)
  t.match(sh('ip link show eth1'), /mtu 1350/)
  t.equal(sh('ip neigh show nud permanent'), '')
  await network.update(both)
  t.equal(sh('ip route | wc -l').trim(), '8', 'and back')
})

t.test('what fails is named, with what ip said; the rest is done', async (t) => {
  const wrong = { ...both, routes: [...both.routes, route('10.9.0.0/16', [hop('eth1', '203.0.113.1')], { scope: 0 }), route('10.10.0.0/16', [hop('eth1')])] }
  await t.rejects(network.update(wrong), { code: 'INTERNAL', message: /^ip route append 10\.9\.0\.0\/16 via 203\.0\.113\.1 dev eth1 scope 0 proto 3: \S.*(invalid gateway|unreachable)/ })
  t.match(sh('ip route'), /^10\.10\.0\.0\/16/m)
  await t.rejects(network.update({ ...both, links: [...both.links, link('net9', '02:00:00:00:00:99')] }), { code: 'FAILED_PRECONDITION', message: /net9/ })
  await t.rejects(new Network('/proc/sys', directory, processes).setUp({ ...both, links: [link('eth0', '02:00:00:00:00:99')] }, []), { code: 'NOT_FOUND', message: /no network card has the MAC 02:00:00:00:00:99 of eth0/ })
})
