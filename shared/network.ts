/** A pod's network as its guest gets it, in the terms of both halves. Numbers are the kernel's (rtnetlink(7)). */

/** All of a pod's network but loopback: what is not in it, the guest must not have. */
export interface PodNetwork {
  readonly links: readonly Link[]
  readonly routes: readonly Route[]
  readonly neighbours: readonly Neighbour[]
}

export interface Link {
  readonly name: string
  /** Two links may have the same one: then they are in the order of their devices */
  readonly mac: string
  readonly mtu: number
  readonly addresses: readonly Address[]
  /** Administratively down */
  readonly down: boolean
  /** Every frame goes to the link's own MAC (ipvlan in mode l3) */
  readonly noarp: boolean
}

export interface Address {
  /** With its prefix length; with a peer, without one */
  readonly local: string
  /** The other end of a point-to-point address, with the prefix length; empty for an ordinary one */
  readonly peer: string
  /** Of IPv4; empty for none */
  readonly broadcast: string
  readonly scope: number
  /** Not to be a new connection's source (preferred lifetime 0) */
  readonly deprecated: boolean
}

export const routeTypes = ['unicast', 'blackhole', 'unreachable', 'prohibit', 'throw'] as const
export type RouteType = (typeof routeTypes)[number]

/** How routers are preferred to one another. Source: RFC 4191, 2.1. */
export const routePreferences = ['low', 'medium', 'high'] as const
export type RoutePreference = (typeof routePreferences)[number]

/** Of the main table. */
export interface Route {
  /** Tells the two default routes apart */
  readonly family: 4 | 6
  readonly type: RouteType
  /** CIDR form; empty for the default route */
  readonly destination: string
  /** Several: multipath. None: the route leads nowhere */
  readonly hops: readonly Hop[]
  readonly source: string
  readonly metric: number
  readonly scope: number
  readonly protocol: number
  /** 0: the link's */
  readonly mtu: number
  readonly advmss: number
  /** Of IPv6 alone */
  readonly preference: RoutePreference
}

export interface Hop {
  readonly link: string
  /** May be of IPv6 in a route of IPv4; empty for on-link */
  readonly gateway: string
  readonly weight: number
  readonly onlink: boolean
}

export interface Neighbour {
  readonly address: string
  readonly mac: string
  readonly link: string
}
