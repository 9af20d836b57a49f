/**
 * What `ip` is asked so that the guest has the network it was told, and nothing of its own making. Lines of one batch, in
 * order. A plan: nothing is run.
 *
 * The kernel would add a route for each address's prefix by itself; `noprefixroute` keeps it from that, for the routes
 * come whole, and a CNI plugin may have removed that one on purpose (ptp does). An IPv6 address is usable at once with
 * `nodad`: the host's kernel has looked for duplicates already.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { Address, Hop, Link, Neighbour, PodNetwork, Route } from '#shared/network.ts'

/** A network card, as the kernel named it. */
export interface Device {
  readonly name: string
  readonly mac: string
}

/**
 * `devices` in the order of their indexes; `cards` as PodConfig has them. Errors: NOT_FOUND for a link without a card.
 */
export function setUpCommands(network: PodNetwork, cards: readonly string[], devices: readonly Device[]): string[] {
  const matches = matched(network.links, cards, devices)
  return [
    ...renameCommands(matches, devices),
    ...matches.flatMap(macCommands),
    ...network.links.flatMap((link) => [linkCommand(link), ...link.addresses.map((address) => addressCommand('add', address, link.name))]),
    ...network.neighbours.map((neighbour) => neighbourCommand('replace', neighbour)),
    ...routesInOrder(network.routes).map((route) => routeCommand('append', route)),
  ]
}

/** From one whole network to another. Errors: FAILED_PRECONDITION for a link that was not there before. */
export function changeCommands(now: PodNetwork, wanted: PodNetwork): string[] {
  const before = new Map(now.links.map((link) => [link.name, link]))
  const strange = wanted.links.find(({ name, mac }) => before.get(name)?.mac !== mac)
  if (strange !== undefined)
    throw new RuntimeError('FAILED_PRECONDITION', `the network link ${strange.name} (${strange.mac}) is new: a running sandbox cannot get a network card`)
  const changed = wanted.links.map((link) => ({ link, old: before.get(link.name) ?? link }))
  return [
    ...routesInOrder(without(now.routes, wanted.routes)).toReversed().map((route) => routeCommand('del', route)),
    ...without(now.neighbours, wanted.neighbours).map((neighbour) => neighbourCommand('del', neighbour)),
    ...changed.flatMap(({ link, old }) => [
      ...without(old.addresses, link.addresses).map((address) => addressCommand('del', address, link.name)),
      ...(same(flags(link), flags(old)) ? [] : [linkCommand(link)]),
      ...without(link.addresses, old.addresses).map((address) => addressCommand('add', address, link.name)),
    ]),
    ...without(wanted.neighbours, now.neighbours).map((neighbour) => neighbourCommand('replace', neighbour)),
    ...routesInOrder(without(wanted.routes, now.routes)).map((route) => routeCommand('append', route)),
  ]
}

const flags = ({ mtu, down, noarp }: Link) => ({ mtu, down, noarp })
const same = (a: object, b: object): boolean => JSON.stringify(a) === JSON.stringify(b)
const without = <T extends object>(items: readonly T[], others: readonly T[]): T[] => items.filter((item) => !others.some((other) => same(item, other)))

/** A link that has gone leaves its card behind, down and without an address; it may come back. */
export function withEveryCard(network: PodNetwork, cards: readonly Link[]): PodNetwork {
  const idle = cards.filter((card) => !network.links.some(({ name }) => name === card.name)).map((card) => ({ ...card, addresses: [], down: true }))
  return { ...network, links: [...network.links, ...idle] }
}

interface Match {
  readonly link: Link
  readonly device: Device
}

function matched(links: readonly Link[], cards: readonly string[], devices: readonly Device[]): Match[] {
  const free = [...devices]
  return links.map((link, index) => {
    const wanted = cards[index] ?? link.mac
    const at = free.findIndex(({ mac }) => mac === wanted)
    const [device] = at === -1 ? [] : free.splice(at, 1)
    if (device === undefined)
      throw new RuntimeError('NOT_FOUND', `no network card has the MAC ${wanted} of ${link.name}; there are ${devices.map(({ name, mac }) => `${name} (${mac})`).join(', ') || 'none'}`)
    return { link, device }
  })
}

const rename = (from: string, to: string): string => `link set dev ${from} name ${to}`
const aside = (index: number): string => `kuasar-aside${index}`

/** A name that another device still has is free only once all have let go of theirs. */
function renameCommands(matches: readonly Match[], devices: readonly Device[]): string[] {
  const moving = matches.filter(({ link, device }) => link.name !== device.name)
  const clash = moving.some(({ link }) => devices.some(({ name }) => name === link.name))
  if (!clash) return moving.map(({ link, device }) => rename(device.name, link.name))
  return [
    ...moving.map(({ device }, index) => rename(device.name, aside(index))),
    ...moving.map(({ link }, index) => rename(aside(index), link.name)),
  ]
}

/** While the card is down, as every kernel allows. */
function macCommands({ link, device }: Match): string[] {
  return link.mac === device.mac ? [] : [`link set dev ${link.name} address ${link.mac}`]
}

function linkCommand({ name, mtu, down, noarp }: Link): string {
  return `link set dev ${name} mtu ${mtu} arp ${noarp ? 'off' : 'on'} ${down ? 'down' : 'up'}`
}

function addressCommand(verb: 'add' | 'del', { local, peer, broadcast, scope, deprecated }: Address, link: string): string {
  const ends = peer === '' ? local : `${local} peer ${peer}`
  const rest = [...(broadcast === '' ? [] : [`broadcast ${broadcast}`]), ...(isIpv6(local) ? ['nodad'] : [`scope ${scope}`]), 'noprefixroute', ...(deprecated ? ['preferred_lft 0'] : [])]
  return `address ${verb} ${ends}${verb === 'add' ? ` ${rest.join(' ')}` : ''} dev ${link}`
}

function neighbourCommand(verb: 'replace' | 'del', { address, mac, link }: Neighbour): string {
  return `neighbour ${verb} ${address} dev ${link}${verb === 'replace' ? ` lladdr ${mac} nud permanent` : ''}`
}

const byGateway = ({ hops }: Route): boolean => hops.some(({ gateway }) => gateway !== '')

/** A gateway is reached by a route that is on-link, so those come first. */
function routesInOrder(routes: readonly Route[]): Route[] {
  return [...routes.filter((route) => !byGateway(route)), ...routes.filter(byGateway)]
}

/**
 * Appended, not replaced: two links have the same fe80::/64 with the same metric, and `replace` would take the one for
 * the other.
 */
function routeCommand(verb: 'append' | 'del', { family, type, destination, hops, source, metric, scope, protocol, mtu, advmss, preference }: Route): string {
  const [hop, ...more] = hops
  const words = [
    `route ${verb}`,
    ...(type === 'unicast' ? [] : [type]),
    destination === '' ? (family === 6 ? '::/0' : '0.0.0.0/0') : destination,
    ...(hop !== undefined && more.length === 0 ? [hopWords(hop, family)] : []),
    ...(source === '' ? [] : [`src ${source}`]),
    ...(metric === 0 ? [] : [`metric ${metric}`]),
    ...(family === 4 && type === 'unicast' ? [`scope ${scope}`] : []),
    `proto ${protocol}`,
    ...(mtu === 0 ? [] : [`mtu ${mtu}`]),
    ...(advmss === 0 ? [] : [`advmss ${advmss}`]),
    ...(preference === 'medium' ? [] : [`pref ${preference}`]),
    ...(more.length > 0 ? hops.map((each) => `nexthop ${hopWords(each, family)} weight ${each.weight}`) : []),
  ]
  return words.join(' ')
}

function hopWords({ link, gateway, onlink }: Hop, family: number): string {
  const via = gateway === '' ? [] : [`via ${family === 4 && isIpv6(gateway) ? 'inet6 ' : ''}${gateway}`]
  return [...via, `dev ${link}`, ...(onlink ? ['onlink'] : [])].join(' ')
}

const isIpv6 = (address: string): boolean => address.includes(':')
