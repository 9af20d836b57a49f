/** A pod's network seen from both sides by the same tool, and servers to reach it by. */
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { parseRecord } from '#host/sandbox/record.ts'
import type { Container } from '#test/cri/container.ts'
import type { Pod } from '#test/cri/pod.ts'
import { poll } from '#test/node/poll.ts'
import { inside } from './kuasar.ts'

/** Several of the sandboxer's looks at a namespace, on a machine that is busy. */
const lookMsMax = 60_000

/** The machine whose sandboxer has the pod: a test's node, or the lab. */
export interface NetworkHost {
  /** A shell command on it; answers its output. */
  sh(script: string): Promise<string>
}

/** What busybox's `ip` prints, one thing a line, without what differs by nature. */
export interface Tables {
  readonly links: readonly string[]
  readonly addresses: readonly string[]
  readonly routes: readonly string[]
  readonly neighbours: readonly string[]
}

/** The guest's, in a container with busybox. */
export const guestTables = (container: Container): Promise<Tables> => tables((command) => inside(container, command))

/** The namespace's, as CNI left it. */
export async function cniTables(host: NetworkHost, pod: Pod): Promise<Tables> {
  const netns = await netnsOf(host, pod)
  const found = await tables((command) => host.sh(`nsenter --net=${netns} sh -c '${command}'`))
  return { ...found, links: found.links.filter((line) => !line.startsWith('kuasar-tap')) }
}

/**
 * Both once they are equal, or as they were at last. The kernel gives a link its own IPv6 address when the link's carrier
 * is seen, which may be after CNI has answered; such an address comes with the sandboxer's next look.
 */
export async function sameTables<T>(guest: () => Promise<T>, cni: () => Promise<T>): Promise<[guest: T, cni: T]> {
  let pair: [T, T] | undefined
  await poll(lookMsMax, async () => {
    pair = [await guest(), await cni()]
    return isDeepStrictEqual(...pair) ? true : undefined
  })
  if (pair === undefined) throw new Error('the tables were never read')
  return pair
}

/** The node's /usr, for `attributesInGuest`. */
export const nodeUsr = { hostPath: '/usr', containerPath: '/node/usr', readonly: true } as const

/** Everything that iproute2 knows of routes and addresses, which is more than busybox prints. In a container with `nodeUsr`. */
export const attributesInGuest = (container: Container): Promise<readonly object[]> =>
  attributes((query) => inside(container, `set -- /node/usr/lib/*-linux-gnu/ld-linux-*; $1 --library-path \${1%/*} /node/usr/bin/ip -json -details ${query}`))

/** The same of the namespace. */
export async function attributesOfCni(host: NetworkHost, pod: Pod): Promise<readonly object[]> {
  const netns = await netnsOf(host, pod)
  return attributes((query) => host.sh(`nsenter --net=${netns} ip -json -details ${query}`))
}

const routeList = z.array(z.looseObject({ dev: z.string().optional(), flags: z.array(z.string()) }))
const address = z.object({ local: z.string(), address: z.string().optional(), prefixlen: z.int(), broadcast: z.string().optional(), scope: z.string(), deprecated: z.boolean().optional(), preferred_life_time: z.int() })
const addressList = z.array(z.object({ ifname: z.string(), addr_info: z.array(address) }))

async function attributes(ip: (query: string) => Promise<string>): Promise<readonly object[]> {
  const routes = [...routeList.parse(JSON.parse(await ip('-4 route'))), ...routeList.parse(JSON.parse(await ip('-6 route')))]
  const links = addressList.parse(JSON.parse(await ip('address')))
  return [
    ...routes.filter(({ dev }) => dev?.startsWith('kuasar-tap') !== true).map((route) => ({ ...route, flags: route.flags.filter((flag) => flag !== 'linkdown') })),
    ...links.filter(({ ifname }) => ifname !== 'lo' && !ifname.startsWith('kuasar-tap')).flatMap(({ ifname, addr_info }) => addr_info.map((one) => ({ ifname, ...one }))),
  ].toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
}

export async function netnsOf(host: NetworkHost, { id }: Pod): Promise<string> {
  const { plan } = parseRecord(await host.sh(`cat /run/kuasar/ledger/${id}.json`), id)
  return plan.netnsPath ?? ''
}

async function tables(run: (command: string) => Promise<string>): Promise<Tables> {
  const commands = ['busybox ip -o link', 'busybox ip -o addr', 'busybox ip route', 'busybox ip -6 route', 'busybox ip neigh show nud permanent']
  const [links = '', addresses = '', ipv4 = '', ipv6 = '', neighbours = ''] = (await run(commands.join('; echo ---; '))).split(/^---$/m)
  return {
    links: lines(links).flatMap((line) => {
      const [, name = '', flags = '', mtu = '', mac = ''] = /^\d+: ([^:@]+)[^<]*<([^>]*)>.* mtu (\d+) .*link\/ether (\S+)/.exec(line) ?? []
      // A flag that busybox does not know (ALLMULTI, 200) follows the last one that it knows as a number.
      return name === '' ? [] : [`${name} ${mac} mtu ${mtu}${/(^|,)UP\d*(,|$)/.test(flags) ? ' up' : ''}${flags.includes('NOARP') ? ' noarp' : ''}`]
    }),
    addresses: lines(addresses).flatMap((line) => {
      const [, name = '', rest = ''] = /^\d+: (\S+)\s+(inet6? .*?)\\/.exec(`${line}\\`) ?? []
      const words = rest.replace(/scope (\w+).*/, 'scope $1')
      return name === 'lo' || name.startsWith('kuasar-tap') || rest === '' ? [] : [`${name} ${words}`]
    }),
    // Newer kernels list the multicast routes of the table `local` as well.
    routes: [...lines(ipv4), ...lines(ipv6)].filter((line) => !line.includes('kuasar-tap') && !line.startsWith('multicast ')),
    neighbours: lines(neighbours),
  }
}

const lines = (text: string): string[] => text.split('\n').map((line) => line.replaceAll(/\s+/g, ' ').replace(/ linkdown$/, '').trim()).filter((line) => line !== '').sort()

/** A container that serves its host name at / on port 80, by IPv4 and IPv6. */
export const server = {
  command: ['sh', '-c', 'mkdir -p /www && hostname >/www/index.html && trap "exit 0" TERM; httpd -f -p 80 -h /www & while :; do sleep 1 & wait $!; done'],
} as const

/**
 * A name server on every address of the machine, as a program for `node -e`. It knows a zone: names and their addresses;
 * for what it does not know it has an empty answer.
 */
export const dnsServer = (zone: Readonly<Record<string, { readonly ipv4?: string; readonly ipv6?: string }>>): string => `
const zone = ${JSON.stringify(Object.fromEntries(Object.entries(zone).map(([name, { ipv4, ipv6 }]) => [name, { 1: ipv4 && bytesOf(ipv4), 28: ipv6 && bytesOf(ipv6) }])))}
require('dgram').createSocket({ type: 'udp6' }).on('message', function (question, { address, port }) {
  const end = question.indexOf(0, 12) + 5
  const labels = []
  for (let at = 12; question[at] > 0; at += question[at] + 1) labels.push(question.toString('latin1', at + 1, at + 1 + question[at]))
  const type = question[end - 3]
  const data = zone[labels.join('.').toLowerCase()]?.[type]
  const header = Buffer.from([question[0], question[1], 0x85, 0x80, 0, 1, 0, data ? 1 : 0, 0, 0, 0, 0])
  const answer = data ? Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 9, 0, data.length, ...data]) : Buffer.alloc(0)
  this.send(Buffer.concat([header, question.subarray(12, end), answer]), port, address)
}).bind(53, '::')`

/** In network order. */
function bytesOf(address: string): number[] {
  if (!address.includes(':')) return address.split('.').map(Number)
  const [first = [], last = []] = address.split('::').map((half) => half.split(':').filter((group) => group !== '').map((group) => Number.parseInt(group, 16)))
  return [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last].flatMap((group) => [group >> 8, group & 0xff])
}

/** What a server answers, asked from a shell; brackets are for IPv6. */
export const ask = (address: string, port = 80): string =>
  `for i in 1 2 3 4 5 6 7 8 9 10; do busybox wget -q -T 20 -O - http://${address.includes(':') ? `[${address}]` : address}:${port}/ && exit; sleep 1; done; exit 1`
