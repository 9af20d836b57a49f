/**
 * From a pod's network namespace, as CNI left it, to what the guest gets. Each link becomes a network card of the guest
 * with the same MAC: a tap beside the link, and frames redirected both ways between the two. The link's own addresses
 * stay where they are, for CNI to find when it removes them; no frame reaches them any more.
 *
 *   network ── link (veth, macvlan, …) ◄──redirect──► tap ── VMM ── the guest's card
 *
 * Pure: what was found goes in, a plan or a refusal that names the interface comes out. Nothing is left out in silence.
 */
import { RuntimeError } from '#shared/errors.ts'
import type { Link, Neighbour, PodNetwork, Route } from '#shared/network.ts'

/** A link as it was found, loopback aside. */
export interface FoundLink extends Link {
  /** The kernel's name for the kind of a virtual device; undefined for a physical one */
  readonly kind: string | undefined
  /** Its frames carry an Ethernet header */
  readonly ethernet: boolean
  /** A device of the same namespace that it lies on or is a port of */
  readonly within: string | undefined
  /** Frames that come in are looked at by a traffic control of somebody else's */
  readonly ingress: boolean
  /** Addresses that another machine was found to have */
  readonly duplicates: readonly string[]
}

export interface FoundRoute extends Route {
  /** Of every table but the kernel's own `local` */
  readonly table: number
  /** What it has that cannot be handed on ("encap", "tos") */
  readonly strange: readonly string[]
}

export interface FoundNetwork {
  readonly links: readonly FoundLink[]
  readonly routes: readonly FoundRoute[]
  readonly neighbours: readonly Neighbour[]
}

/** A tap beside one of CNI's links. */
export interface Tap {
  readonly name: string
  /** CNI's link */
  readonly uplink: string
  readonly mac: string
  readonly mtu: number
  /** Pairs of queues; above 1 the tap is made for several */
  readonly queues: number
}

export interface NetworkPlan {
  /** In the order of the guest's cards and of its links */
  readonly taps: readonly Tap[]
  readonly guest: PodNetwork
}

/** Network cards of one guest: each takes a PCI slot of the root bus. */
export const CARDS_MAX = 16
/** Routes of one pod; the guest's agent gets them in one message. */
export const ROUTES_MAX = 4096
/** Pairs of queues of one card: more bring nothing to one guest, and each costs two interrupts of it. */
const QUEUES_MAX = 16

/** Kinds whose frames can be redirected. */
export const carriedKinds = ['veth', 'macvlan', 'ipvlan', 'tap', 'vlan', 'dummy'] as const

/**
 * Devices the kernel puts into every new network namespace once a tunnel's module is loaded; nobody asked for them, and
 * they are down. Source: kernel, Documentation/admin-guide/sysctl/net.rst, fb_tunnels_only_for_init_net.
 */
const fallbackDevices = ['tunl0', 'gre0', 'gretap0', 'erspan0', 'ip_vti0', 'ip6_vti0', 'sit0', 'ip6tnl0', 'ip6gre0']

export const MAIN_TABLE = 254
const TAP_PREFIX = 'kuasar-tap'
/** The tap of a VM that has no pod yet, in a namespace of its own. */
export const IDLE_TAP = `${TAP_PREFIX}0`
/** The MAC of its card, which no frame ever carries: alone with its tap, it is down until it has its pod's. */
export const IDLE_MAC = '02:6b:75:61:73:61'

/** Errors: FAILED_PRECONDITION naming the interface, address or route that a guest cannot have. */
export function planNetwork(found: FoundNetwork, vcpus: number): NetworkPlan {
  const links = found.links.filter((link) => !isFallback(link))
  if (links.length > CARDS_MAX) throw refusal(`the pod has ${links.length} network interfaces (${links.map(({ name }) => name).join(', ')}); a sandbox takes ${CARDS_MAX}`)
  refuseTooMany(found.routes)
  const [why] = [...links.flatMap(whyNotLink), ...found.routes.flatMap(whyNotRoute)]
  if (why !== undefined) throw refusal(why)
  const names = freeNames(new Set(links.map(({ name }) => name)))
  const queues = queuesOf(vcpus)
  return {
    taps: links.map(({ name, mac, mtu }, index) => ({ name: names(index), uplink: name, mac, mtu, queues })),
    guest: told(links, found.routes, found.neighbours),
  }
}

const told = (links: readonly FoundLink[], routes: readonly FoundRoute[], neighbours: readonly Neighbour[]): PodNetwork => ({
  links: links.map(({ name, mac, mtu, addresses, down, noarp }) => ({ name, mac, mtu, addresses, down, noarp })),
  routes: routes.map(({ table: _table, strange: _strange, ...route }) => route),
  neighbours: neighbours.filter(({ link }) => links.some(({ name }) => name === link)),
})

/** Pairs of queues of each card of a VM. */
export const queuesOf = (vcpus: number): number => Math.min(vcpus, QUEUES_MAX)

const refusal = (message: string): RuntimeError => new RuntimeError('FAILED_PRECONDITION', message)

function isFallback({ name, down, addresses }: FoundLink): boolean {
  return down && addresses.length === 0 && fallbackDevices.includes(name)
}

function refuseTooMany(routes: readonly FoundRoute[]): void {
  if (routes.length > ROUTES_MAX) throw refusal(`the pod has ${routes.length} routes; a sandbox takes ${ROUTES_MAX}`)
}

/** The first reason, or none. */
function whyNotLink({ name, kind, ethernet, within, ingress, duplicates }: FoundLink): string[] {
  const because = (why: string) => [`network interface ${name} of the pod ${why}`]
  // iproute2 splits a batch's lines at spaces and knows quotes and comments.
  if (!/^[^\s"'#\\-][^\s"'#\\]*$/.test(name)) return because('has a name that cannot be handed on: expected letters, digits, dots and dashes')
  if (kind === undefined)
    return because('is a physical device: pass-through does not exist yet; give the pod a veth, macvlan, ipvlan or vlan interface on it, or run it with a runc runtime class')
  if (!carriedKinds.some((carried) => carried === kind) || !ethernet)
    return because(`is of kind ${kind}, which cannot be carried into a sandbox: expected one of ${carriedKinds.join(', ')}`)
  if (within !== undefined) return because(`lies on ${within} of the same namespace, whose frames go to the guest before ${name} could see them`)
  if (ingress) return because('already has a qdisc for incoming frames (ingress or clsact): they cannot be redirected to the guest as well')
  if (duplicates.length > 0) return because(`has the address ${duplicates.join(', ')}, which another machine on its network has too`)
  return []
}

function whyNotRoute({ destination, family, table, strange }: FoundRoute): string[] {
  const name = `the pod's IPv${family} route to ${destination === '' ? 'default' : destination}`
  if (table !== MAIN_TABLE) return [`${name} is in table ${table}: only the main table (${MAIN_TABLE}) is carried into a sandbox`]
  if (strange.length > 0) return [`${name} has ${strange.join(', ')}, which cannot be carried into a sandbox`]
  return []
}

/** Never the name of a device that is there already. */
function freeNames(taken: ReadonlySet<string>): (index: number) => string {
  const free = Array.from({ length: taken.size + CARDS_MAX }, (_, index) => `${TAP_PREFIX}${index}`).filter((name) => !taken.has(name))
  return (index) => free[index] ?? ''
}

/**
 * What of a network, looked at again, a running guest can have with its cards; and what it cannot, each with its reason.
 * A link that has a card keeps it, whatever it has become. Errors: FAILED_PRECONDITION for too many routes.
 */
export function withinCards(found: FoundNetwork, cards: readonly Pick<Link, 'name' | 'mac'>[]): { readonly network: PodNetwork; readonly without: readonly string[] } {
  refuseTooMany(found.routes)
  const has = ({ name, mac }: Pick<Link, 'name' | 'mac'>) => cards.some((card) => card.name === name && card.mac === mac)
  const links = found.links.filter((link) => !isFallback(link))
  const came = links.filter((link) => !has(link))
  const routes = found.routes.filter(({ hops }) => !hops.some((hop) => came.some(({ name }) => name === hop.link)))
  return {
    network: told(links.filter(has), routes.filter((route) => whyNotRoute(route).length === 0), found.neighbours),
    without: [
      ...links.flatMap((link) => [...whyNotLink(link), ...(has(link) ? [] : tooLate(link))].slice(0, 1)),
      ...routes.flatMap(whyNotRoute),
    ],
  }
}

const tooLate = ({ name }: FoundLink): string[] => [`network interface ${name} of the pod came, or changed its MAC, after the start: a running sandbox gets no new network card`]
