/** What the guest is told of its network, in the wire's form. */
import type { MessageIn } from '#shared/rpc/any.ts'
import type { PodNetwork } from '#shared/network.ts'

export function networkMessage({ links, routes, neighbours }: PodNetwork): MessageIn<'kuasar.host.v1.Network'> {
  return {
    links: links.map((link) => ({ ...link, addresses: [...link.addresses] })),
    routes: routes.map((route) => ({ ...route, hops: [...route.hops] })),
    neighbours: [...neighbours],
  }
}
