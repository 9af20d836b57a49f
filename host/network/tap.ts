/** Makes and removes the taps of a pod, with the redirection between each and CNI's link. */
import { existsSync } from 'node:fs'
import { z } from 'zod'
import { RuntimeError } from '#shared/errors.ts'
import type { PodNetwork } from '#shared/network.ts'
import { feed, inNetns, netnsExists, runInNetns } from './netns.ts'
import type { NetworkPlan, Tap } from './plan.ts'

/** A tap in the ledger, which may be half made or half gone. */
export interface OwnedTap {
  readonly netns: string
  readonly name: string
  /** CNI's link, when its frames are redirected to this device */
  readonly uplink?: string | undefined
}

/** Made by the module `tun`, which loads itself once the node is there: at boot, by systemd, or by hand. */
const TUN = '/dev/net/tun'

const IP_FAILED = 11
const TC_FAILED = 12

/** Errors: FAILED_PRECONDITION without /dev/net/tun; INTERNAL with the command and iproute2's message. What was made by then is the caller's to undo. */
export async function makeTaps(netns: string, { taps, guest }: NetworkPlan): Promise<void> {
  mustHaveTun()
  await connect(netns, guest, taps, (tap) => [addCommand(tap)])
}

/** A tap that is connected to nothing yet. Errors: FAILED_PRECONDITION without /dev/net/tun; INTERNAL with iproute2's message. */
export async function makeIdleTap(netns: string, tap: Pick<Tap, 'name' | 'queues'>): Promise<void> {
  mustHaveTun()
  await ip(netns, addCommand(tap))
}

function mustHaveTun(): void {
  if (!existsSync(TUN)) throw new RuntimeError('FAILED_PRECONDITION', `this machine has no ${TUN}, and a pod's network needs taps: load the kernel module (modprobe tun)`)
}

/**
 * Brings a tap that a VMM has open from the VM's own namespace into the pod's, where it takes the name that is planned and
 * is connected as makeTaps does it: the VMM's descriptor stays with the device. Errors as makeTaps has them.
 */
export async function moveTap(from: { readonly netns: string; readonly name: string }, netns: string, { taps, guest }: NetworkPlan): Promise<void> {
  const [tap] = taps
  if (tap === undefined || taps.length > 1) throw new RuntimeError('INTERNAL', `one tap cannot serve ${taps.length} network interfaces`)
  if (tap.name !== from.name) await ip(from.netns, `link set dev ${from.name} name ${tap.name}`)
  // Its path is one word, whatever characters it has.
  await ip(from.netns, `link set dev ${tap.name} netns`, netns)
  await connect(netns, guest, taps, () => [])
}

async function ip(netns: string, command: string, ...more: readonly string[]): Promise<void> {
  const { exitCode, stderr } = await runInNetns(netns, ['ip', ...command.split(' '), ...more])
  if (exitCode !== 0) throw new RuntimeError('INTERNAL', `ip ${[command, ...more].join(' ')}: ${stderr.trim()} (in the network namespace ${netns})`)
}

/** `first`: what comes before each tap is set up. */
async function connect(netns: string, guest: PodNetwork, taps: readonly Tap[], first: (tap: Tap) => readonly string[]): Promise<void> {
  const hasIpv6 = (name: string) => guest.links.some((link) => link.name === name && link.addresses.some(({ local }) => local.includes(':')))
  const ip = taps.flatMap((tap) => [...first(tap), ...linkCommands(tap, hasIpv6(tap.uplink))])
  const tc = taps.flatMap(({ name, uplink }) => [...redirect(uplink, name), ...redirect(name, uplink)])
  const script = feed('ip -batch -', ip, `|| exit ${IP_FAILED}`) + feed('tc -batch -', tc, `|| exit ${TC_FAILED}`)
  const { exitCode, stderr } = await inNetns(netns, script)
  if (exitCode === 0) return
  const [program, commands] = exitCode === TC_FAILED ? ['tc', tc] : ['ip', ip]
  throw new RuntimeError('INTERNAL', `${batchFailure(program, commands, stderr)} (in the network namespace ${netns})`)
}

/** The VMM opens the tap without a capability, as its owner. */
function addCommand({ name, queues }: Pick<Tap, 'name' | 'queues'>): string {
  return `tuntap add dev ${name} mode tap user 0 vnet_hdr${queues > 1 ? ' multi_queue' : ''}`
}

/**
 * A tap itself has no part in IPv6: its frames would reach the
 * guest. The uplink takes every multicast frame, for which groups the guest listens to is not known here.
 */
function linkCommands({ name, uplink, mtu }: Tap, ipv6: boolean): string[] {
  return [
    ...(ipv6 ? [`link set dev ${name} addrgenmode none`] : []),
    `link set dev ${name} mtu ${mtu} up`,
    `link set dev ${uplink} allmulticast on`,
  ]
}

/** u32 is the classifier every kernel with traffic control has; a match of nothing is a match of all. */
function redirect(from: string, to: string): string[] {
  return [
    `qdisc add dev ${from} ingress`,
    `filter add dev ${from} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ${to}`,
  ]
}

/** iproute2 ends a batch with "Command failed -:LINE" after the message. */
export function batchFailure(program: string, commands: readonly string[], stderr: string): string {
  const line = Number(/^Command failed -:(\d+)/m.exec(stderr)?.[1] ?? 0)
  const message = stderr.replaceAll(/^Command failed -:\d+\s*$/gm, '').trim().replaceAll(/\s*\n\s*/g, ' ')
  return `${program} ${commands[line - 1] ?? '-batch'}: ${message}`
}

const links = z.array(z.object({ ifname: z.string() }))
const qdiscs = z.array(z.object({ kind: z.string(), dev: z.string() }))

/**
 * Removes the taps of one namespace and ends the redirection to them; what is gone already, the namespace included, is
 * no error. Whether all is gone the namespace itself is asked. Errors: INTERNAL naming what is still there.
 */
export async function removeTaps(netns: string, taps: readonly OwnedTap[]): Promise<void> {
  if (!(await netnsExists(netns))) return
  const uplinks = taps.flatMap(({ uplink }) => uplink ?? [])
  const tc = uplinks.map((uplink) => `qdisc del dev ${uplink} ingress`)
  const ip = [...uplinks.map((uplink) => `link set dev ${uplink} allmulticast off`), ...taps.map(({ name }) => `link delete dev ${name}`)]
  const script = `${feed('tc -force -batch -', tc)}${feed('ip -force -batch -', ip)}ip -json link show && tc -json qdisc show`
  const { exitCode, stdout, stderr } = await inNetns(netns, script)
  const [linksNow = '', qdiscsNow = ''] = stdout.split('\n').filter((line) => line.startsWith('['))
  // Whoever made the namespace may have taken it meanwhile.
  if (exitCode !== 0 && !(await netnsExists(netns))) return
  if (exitCode !== 0) throw new RuntimeError('INTERNAL', `whether ${taps.map(({ name }) => name).join(', ')} is gone from ${netns} cannot be told: ${stderr.trim()}`)
  const left = [
    ...links.parse(JSON.parse(linksNow)).flatMap(({ ifname }) => (taps.some(({ name }) => name === ifname) ? [`link ${ifname}`] : [])),
    ...qdiscs.parse(JSON.parse(qdiscsNow)).flatMap(({ kind, dev }) => (kind === 'ingress' && uplinks.includes(dev) ? [`the ingress qdisc of ${dev}`] : [])),
  ]
  if (left.length > 0) throw new RuntimeError('INTERNAL', `${left.join(', ')} is still in ${netns}: ${stderr.trim()}`)
}
