/** Reads a network namespace as CNI left it, by iproute2's JSON, which is checked here before anyone relies on it. */
import { z } from 'zod'
import { RuntimeError, explain } from '#shared/errors.ts'
import { feed, inNetns } from './netns.ts'
import { type Address, type Hop, type Neighbour, type RouteType, routePreferences } from '#shared/network.ts'
import type { FoundLink, FoundNetwork, FoundRoute } from './plan.ts'

/** One process answers all of it; `table all` is the one form that lists both families. */
const QUERIES = ['address show', 'route show table all', 'neighbour show nud permanent'] as const
/** -N: scopes, protocols, tables and types as the kernel's numbers, whatever names the machine has for them. */
const SCRIPT = feed('ip -N -json -details -batch -', QUERIES, '&& tc -json qdisc show')

const number = z.string().regex(/^\d+$/).transform(Number)
const flags = z.array(z.string()).default([])

const address = z.object({
  local: z.string(),
  /** Of the other end */
  address: z.string().optional(),
  prefixlen: z.int(),
  broadcast: z.string().default(''),
  scope: number,
  dadfailed: z.boolean().default(false),
  deprecated: z.boolean().default(false),
})

const link = z.object({
  ifname: z.string(),
  /** A device it lies on, when that is in the same namespace */
  link: z.string().optional(),
  link_netnsid: z.int().optional(),
  master: z.string().optional(),
  flags,
  mtu: z.int(),
  /** ARPHRD in brackets under -N */
  link_type: z.string(),
  address: z.string().default(''),
  linkinfo: z.object({ info_kind: z.string().optional(), info_data: z.object({ type: z.string().optional() }).optional() }).optional(),
  addr_info: z.array(address).default([]),
})

const via = z.object({ host: z.string() })
const hop = z.object({ gateway: z.string().optional(), via: via.optional(), dev: z.string().optional(), weight: z.int().default(1), flags })
const route = hop.extend({
  type: number,
  dst: z.string(),
  table: number.default(254),
  protocol: number,
  scope: number,
  prefsrc: z.string().default(''),
  metric: z.int().default(0),
  /** Only routes of IPv6 have one */
  pref: z.literal(routePreferences).optional(),
  metrics: z.array(z.record(z.string(), z.unknown())).default([]),
  nexthops: z.array(hop).default([]),
  encap: z.unknown().optional(),
  tos: z.unknown().optional(),
  from: z.unknown().optional(),
  /** Of realms: a mark for traffic control */
  flow: z.unknown().optional(),
})

const neighbour = z.object({ dst: z.string(), dev: z.string(), lladdr: z.string() })
const qdisc = z.object({ kind: z.string(), dev: z.string() })

/** rtnetlink(7) and linux/rtnetlink.h: RTN_* and RT_TABLE_LOCAL. */
const LOCAL_TABLE = 255
const typeNumbers: ReadonlyMap<number, RouteType> = new Map([
  [1, 'unicast'],
  [6, 'blackhole'],
  [7, 'unreachable'],
  [8, 'prohibit'],
  [9, 'throw'],
])
/** Metrics that are handed on. A lock keeps path MTU discovery from lowering one; it is the route's own still. */
const METRICS = ['mtu', 'advmss', 'lock']
/** ARPHRD_ETHER, as iproute2 writes it with -N and without. */
const ETHERNET = ['[1]', 'ether']
const INGRESS = ['ingress', 'clsact']

/** `taps`: our own devices, made before this look, which are nothing of CNI's. Errors: INTERNAL with iproute2's message. */
export async function discoverNetwork(netns: string, taps: readonly { readonly name: string; readonly uplink: string }[] = []): Promise<FoundNetwork> {
  const { exitCode, stdout, stderr } = await inNetns(netns, SCRIPT)
  if (exitCode !== 0) throw new RuntimeError('INTERNAL', `the network namespace ${netns} cannot be read: ${stderr.trim() || `iproute2 ended with ${exitCode}`}`)
  const found = parseNetwork(stdout)
  return {
    ...found,
    links: found.links
      .filter(({ name }) => !taps.some((tap) => tap.name === name))
      .map((one) => (taps.some(({ uplink }) => uplink === one.name) ? { ...one, ingress: false } : one)),
    routes: found.routes.filter(({ hops }) => !hops.some((one) => taps.some(({ name }) => name === one.link))),
  }
}

/** What the script prints: one JSON array a line. Errors: INTERNAL naming what was not as expected. */
export function parseNetwork(text: string): FoundNetwork {
  const [addresses, routes, neighbours, qdiscs] = text.split('\n').filter((line) => line.trim() !== '')
  const ingress = new Set(parsed(z.array(qdisc), qdiscs, 'qdiscs').filter(({ kind }) => INGRESS.includes(kind)).map(({ dev }) => dev))
  return {
    links: parsed(z.array(link), addresses, 'links')
      .filter((one) => !one.flags.includes('LOOPBACK'))
      .map((one) => foundLink(one, ingress)),
    routes: parsed(z.array(route), routes, 'routes')
      .filter(({ table }) => table !== LOCAL_TABLE)
      .map(foundRoute),
    neighbours: parsed(z.array(neighbour), neighbours, 'neighbours').map(({ dst, dev, lladdr }): Neighbour => ({ address: dst, mac: lladdr, link: dev })),
  }
}

function parsed<S extends z.ZodType>(schema: S, line: string | undefined, what: string): z.output<S> {
  let raw: unknown
  try {
    raw = JSON.parse(line ?? '')
  } catch (error) {
    throw new RuntimeError('INTERNAL', `iproute2's list of ${what} is not JSON: ${explain(error)}`, { cause: error })
  }
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw new RuntimeError('INTERNAL', `iproute2's list of ${what} is not as expected at ${issue?.path.join('.')}: ${issue?.message}`)
}

function foundLink(one: z.output<typeof link>, ingress: ReadonlySet<string>): FoundLink {
  const { ifname: name, linkinfo, addr_info: addresses } = one
  const kind = linkinfo?.info_kind === 'tun' ? (linkinfo.info_data?.type ?? 'tun') : linkinfo?.info_kind
  // The other end of a veth is no device below it.
  const below = kind === 'veth' || one.link_netnsid !== undefined ? undefined : one.link
  return {
    name,
    mac: one.address,
    mtu: one.mtu,
    addresses: addresses.map(foundAddress),
    down: !one.flags.includes('UP'),
    noarp: one.flags.includes('NOARP'),
    kind,
    ethernet: ETHERNET.includes(one.link_type),
    within: one.master ?? below,
    ingress: ingress.has(name),
    duplicates: addresses.filter(({ dadfailed }) => dadfailed).map(({ local }) => local),
  }
}

function foundAddress({ local, address: peer, prefixlen, broadcast, scope, deprecated }: z.output<typeof address>): Address {
  const ends = peer === undefined ? { local: `${local}/${prefixlen}`, peer: '' } : { local, peer: `${peer}/${prefixlen}` }
  return { ...ends, broadcast, scope, deprecated }
}

function foundRoute(one: z.output<typeof route>): FoundRoute {
  const family = one.pref !== undefined ? 6 : 4
  const type = typeNumbers.get(one.type)
  const metrics = one.metrics.flatMap((metric) => Object.entries(metric))
  const strange = [
    ...(type === undefined ? [`type ${one.type}`] : []),
    ...(['encap', 'tos', 'from', 'flow'] as const).filter((key) => one[key] !== undefined),
    ...metrics.map(([key]) => key).filter((key) => !METRICS.includes(key)),
  ]
  const metric = (key: string): number => Number(metrics.find(([name]) => name === key)?.[1] ?? 0)
  return {
    family,
    type: type ?? 'unicast',
    destination: one.dst === 'default' ? '' : one.dst.includes('/') ? one.dst : `${one.dst}/${family === 6 ? 128 : 32}`,
    hops: type === 'unicast' ? (one.nexthops.length > 0 ? one.nexthops : [one]).map(foundHop) : [],
    source: one.prefsrc,
    metric: one.metric,
    scope: one.scope,
    protocol: one.protocol,
    mtu: metric('mtu'),
    advmss: metric('advmss'),
    preference: one.pref ?? 'medium',
    table: one.table,
    strange,
  }
}

function foundHop({ gateway, via: other, dev, weight, flags: hopFlags }: z.output<typeof hop>): Hop {
  return { link: dev ?? '', gateway: gateway ?? other?.host ?? '', weight, onlink: hopFlags.includes('onlink') }
}
