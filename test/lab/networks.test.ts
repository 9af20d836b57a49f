/**
 * Links that want a kernel with more modules than others have: ipvlan, vlan and dummy, which a guest gets exactly, and a
 * physical device, which no guest gets and the node has back.
 */
import t from 'tap'
import { RuntimeError, hasCode } from '#shared/errors.ts'
import { cniConfig, networkName, spare, uplink, vlanId, type CniNetwork } from '#test/node/cni.ts'
import { cniConfigPath, networkTaken } from '#test/node/containerd.ts'
import { inside, microvm } from '#test/support/kuasar.ts'
import { ask, cniTables, guestTables, netnsOf, sameTables, server } from '#test/support/network.ts'
import { followAsDocumented } from './documented.ts'
import { SPARE_MAC, startLab } from './lab.ts'
import { remainsIn } from './remains.ts'
import { newPodSlice, podSlices } from './slice.ts'

const nodePort = 8080

interface Expected {
  readonly network: CniNetwork
  readonly address: RegExp
  /** Of the node, at the other end of the device that the pods are on */
  readonly node?: string
  readonly link: RegExp
  /** A second pod on the same network; the kernel has a vlan's tag once for a device. */
  readonly beside: boolean
}

const networks: readonly Expected[] = [
  { network: { kind: 'ipvlan', mtu: 1400 }, address: /^10\.93\./, node: '10.93.0.1', link: / mtu 1400 [^]* ipvlan +mode l2 /, beside: true },
  { network: { kind: 'vlan', mtu: 1400 }, address: /^10\.94\./, node: '10.94.0.1', link: / mtu 1400 [^]* vlan protocol 802.1Q id 7 /, beside: false },
  { network: { kind: 'dummy' }, address: /^10\.95\./, link: / mtu 1500 [^]* dummy /, beside: false },
]

const lab = await startLab((line) => t.comment(line))
t.teardown(() => lab[Symbol.asyncDispose]())
const cri = await lab.cri(podSlices(lab))
// Nobody here loads what a device or a pod wants.
await lab.sh('modprobe -a kvm_amd vhost_vsock ipvlan 8021q dummy virtio_net')
await followAsDocumented(lab)
const runPod = (name: string) => cri.runPod({ name, linux: { cgroupParent: newPodSlice() } }, microvm)

async function setNetwork(network: CniNetwork): Promise<void> {
  await lab.writeFile(cniConfigPath, cniConfig(network))
  await networkTaken(cri, network)
}

const far = `${uplink}-node`
await lab.sh(`ip link add ${uplink} type veth peer name ${far}
ip link add link ${far} name ${far}.${vlanId} type vlan id ${vlanId}
ip addr add 10.93.0.1/24 dev ${far}
ip addr add 10.94.0.1/24 dev ${far}.${vlanId}
for link in ${uplink} ${far} ${far}.${vlanId}; do ip link set $link up; done
mkdir -p /tmp/www && echo node >/tmp/www/index.html
systemd-run --quiet --unit=httpd busybox httpd -f -p ${nodePort} -h /tmp/www
card=$(grep -l ${SPARE_MAC} /sys/class/net/*/address | cut -d/ -f5)
ip link set $card name ${spare}`)
/** What the node has, without what changes by itself. */
const nodeLinks = () => lab.sh(`ip -oneline -details link | sed 's/ qlen [0-9]*//; s/NO-CARRIER,//; s/ state [A-Z]*//'`)
const before = await nodeLinks()

for (const { network, address: expected, node, link, beside } of networks) {
  const { kind } = network
  t.test(networkName(network), async (t) => {
    await setNetwork(network)
    const pods = await Promise.all([runPod(`${kind}-one`), ...(beside ? [runPod(`${kind}-two`)] : [])])
    const [first, second] = await Promise.all(pods.map((pod) => pod.run(server)))
    const [address = '', other] = await Promise.all(pods.map(async (pod) => (await pod.status()).network?.ip ?? ''))
    const [pod] = pods
    if (pod === undefined || first === undefined) throw new Error('no pod')
    t.match(address, expected)
    t.strictSame(...(await sameTables(() => guestTables(first), () => cniTables(lab, pod))), 'the guest has what CNI gave')
    t.match(await lab.sh(`nsenter --net=${await netnsOf(lab, pod)} ip -oneline -details link show dev eth0`), link)

    t.equal(await inside(first, ask(address)), `${kind}-one`, 'the pod reaches itself by its address')
    if (node !== undefined) {
      t.equal(await inside(first, ask(node, nodePort)), 'node', 'pod to node')
      t.equal(await lab.sh(ask(address)), `${kind}-one`, 'node to pod')
    }
    if (second !== undefined && other !== undefined) {
      t.equal(await inside(second, ask(address)), `${kind}-one`, 'pod to pod')
      t.equal(await inside(first, ask(other)), `${kind}-two`, 'and back')
    }
    for (const each of pods) await each.remove()
    t.same(await remainsIn(lab), [])
    t.equal(await nodeLinks(), before)
  })
}

t.test('a physical device is refused by name, and the node has it back', async (t) => {
  await setNetwork({ kind: 'host-device' })
  const error: unknown = await runPod('physical').catch((thrown: unknown) => thrown)
  if (!(error instanceof RuntimeError)) throw new Error('it was not refused', { cause: error })
  t.ok(hasCode(error, 'FAILED_PRECONDITION'), error.message)
  t.match(error.message, /network interface eth0 of the pod is a physical device: pass-through does not exist yet/)
  t.same(await cri.pods(), [])
  t.same(await remainsIn(lab), [])
  t.equal(await nodeLinks(), before, 'the device as it was')
})
