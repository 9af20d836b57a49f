/** Taps in a real network namespace, by the machine's own iproute2: made, found again, removed, and every failure between. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { discoverNetwork } from '#host/network/discover.ts'
import { makeNetns, runInNetns } from '#host/network/netns.ts'
import { planNetwork } from '#host/network/plan.ts'
import { makeIdleTap, makeTaps, moveTap, removeTaps } from '#host/network/tap.ts'

/** A namespace at a path, as CNI makes one, and a shell in it. */
function makeNamespace(t: Test): { readonly netns: string; readonly sh: (script: string) => string } {
  const dir = mkdtempSync('/tmp/netns-')
  const netns = join(dir, 'pod')
  writeFileSync(netns, '')
  execFileSync('unshare', [`--net=${netns}`, 'true'])
  t.teardown(() => {
    execFileSync('umount', [netns])
    rmSync(dir, { recursive: true })
  })
  return { netns, sh: (script) => execFileSync('nsenter', [`--net=${netns}`, 'sh', '-euc', script], { encoding: 'utf8' }).trim() }
}

const owned = (netns: string, plan: ReturnType<typeof planNetwork>) => plan.taps.map(({ name, uplink }) => ({ netns, name, uplink }))

t.test('made, looked at again, and removed', async (t) => {
  const { netns, sh } = makeNamespace(t)
  sh('ip link add eth0 mtu 1400 type veth peer name net1 mtu 1400; ip addr add 10.88.0.5/16 dev eth0; ip addr add fd00::5/64 dev eth0 nodad; ip link set eth0 up; ip link set net1 up; ip route add default via 10.88.0.1')
  // A busy kernel takes its time to say that both ends are up.
  sh('for i in $(seq 1000); do [ "$(ip -o link | grep -c "state UP")" -lt 2 ] || exit 0; sleep 0.01; done; exit 1')
  const state = () => sh('ip -o link; ip -o addr; ip route; tc qdisc show ingress').replaceAll(' tentative', '')
  const before = state()
  const found = await discoverNetwork(netns)
  const plan = planNetwork(found, 2)
  await makeTaps(netns, plan)
  t.strictSame(plan.taps.map(({ uplink }) => uplink).toSorted(), ['eth0', 'net1'])
  for (const { name, uplink } of plan.taps) {
    t.match(sh(`ip -details link show dev ${name}`), /mtu 1400 [\s\S]*tun type tap .*vnet_hdr on .*multi_queue.* user root/)
    t.equal(sh(`ip -6 -o addr show dev ${name}`), '', 'a tap has no address of its own')
    for (const [from, to] of [[name, uplink], [uplink, name]]) t.match(sh(`tc filter show dev ${from} ingress`), `Egress Redirect to device ${to}`)
  }
  const again = planNetwork(await discoverNetwork(netns, plan.taps), 2)
  t.strictSame(again.guest, plan.guest, 'looked at again it is the same, our own devices aside')

  await removeTaps(netns, owned(netns, plan))
  t.equal(state(), before)
  await removeTaps(netns, owned(netns, plan))
})

t.test('half made, half gone, and gone with its namespace', async (t) => {
  const { netns, sh } = makeNamespace(t)
  sh('ip link add eth0 type veth peer name net1')
  const plan = planNetwork(await discoverNetwork(netns), 1)
  sh('ip link add kuasar-tap1 type veth peer name other')
  await t.rejects(makeTaps(netns, plan), { code: 'INTERNAL', message: /^ip tuntap add dev kuasar-tap1 .*: \S.* \(in the network namespace \/tmp\/netns-/ })
  t.match(sh('ip -o link'), /kuasar-tap0/)
  await removeTaps(netns, owned(netns, plan))
  t.notMatch(sh('ip -o link; tc qdisc show ingress'), /kuasar-tap0|ingress/)

  sh('ip link delete dev eth0')
  await removeTaps(netns, owned(netns, plan))
  await removeTaps('/tmp/nowhere/netns', owned(netns, plan))
  await removeTaps('/etc/hostname', owned(netns, plan))
})

// CNI takes the namespace of a start that its client has given up, while the start is being undone.
t.test('gone with its namespace at any moment of their removal', async (t) => {
  for (let delayMs = 0; delayMs < 20; delayMs++) {
    const dir = mkdtempSync('/tmp/netns-')
    const netns = join(dir, 'pod')
    writeFileSync(netns, '')
    execFileSync('unshare', [`--net=${netns}`, 'true'])
    const removed = removeTaps(netns, [{ netns, name: 'kuasar-tap0', uplink: 'eth0' }])
    await sleep(delayMs)
    execFileSync('umount', [netns])
    rmSync(dir, { recursive: true })
    await t.resolves(removed, `${delayMs} ms after it began`)
  }
})

t.test('what is refused is found in a real namespace too', async (t) => {
  for (const [script, message] of [
    ['ip link add eth0 type veth peer name net1; tc qdisc add dev eth0 clsact', /eth0 of the pod already has a qdisc/],
    ['ip link add br0 type bridge', /br0 of the pod is of kind bridge/],
    ['ip tuntap add dev tun5 mode tun', /tun5 of the pod is of kind tun/],
    ['ip link add eth0 type veth peer name net1; ip link add link eth0 name mv0 type macvlan', /mv0 of the pod lies on eth0/],
    ['ip link add eth0 type veth peer name net1; ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up; ip route add 10.1.0.0/16 dev eth0 table 7', /route to 10\.1\.0\.0\/16 is in table 7/],
    ['ip link add eth0 type veth peer name net1; ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up; ip route add 10.1.0.0/16 dev eth0 tos 0x10', /route to 10\.1\.0\.0\/16 has tos/],
  ] as const) {
    const { netns, sh } = makeNamespace(t)
    sh(script)
    await t.rejects(async () => planNetwork(await discoverNetwork(netns), 1), { code: 'FAILED_PRECONDITION', message })
  }
})

t.test('a namespace that is not there', async (t) => {
  await t.rejects(discoverNetwork('/tmp/nowhere'), { code: 'INTERNAL', message: /\/tmp\/nowhere.*No such file/ })
})

t.test('a tap that waited in a namespace of its own is moved into the pod’s, and is one like any other there', async (t) => {
  const { netns, sh } = makeNamespace(t)
  const { netns: own, sh: shOwn } = makeNamespace(t)
  sh(`ip link add eth0 mtu 1400 type veth peer name far; ip link set far netns ${own}; ip addr add 10.88.0.5/16 dev eth0; ip addr add fd00::5/64 dev eth0 nodad; ip link set eth0 up`)
  const plan = planNetwork(await discoverNetwork(netns), 2)
  await makeIdleTap(own, { name: 'kuasar-tap7', queues: 2 })
  await moveTap({ netns: own, name: 'kuasar-tap7' }, netns, plan)
  t.notMatch(shOwn('ip -o link'), /kuasar/)
  t.match(sh('ip -details link show dev kuasar-tap0'), /UP[\s\S]*mtu 1400 [\s\S]*tun type tap .*multi_queue.* user root/)
  t.equal(sh('ip -6 -o addr show dev kuasar-tap0'), '')
  for (const [from, to] of [['kuasar-tap0', 'eth0'], ['eth0', 'kuasar-tap0']]) t.match(sh(`tc filter show dev ${from} ingress`), `Egress Redirect to device ${to}`)
  await removeTaps(netns, owned(netns, plan))
  t.notMatch(sh('ip -o link; tc qdisc show ingress'), /kuasar|ingress/)

  await makeIdleTap(own, { name: 'kuasar-tap7', queues: 1 })
  await t.rejects(moveTap({ netns: own, name: 'kuasar-tap7' }, '/tmp/nowhere/netns', plan), { code: 'INTERNAL', message: /^ip link set dev kuasar-tap0 netns \/tmp\/nowhere\/netns: \S.* \(in the network namespace / })
  await t.rejects(moveTap({ netns: own, name: 'kuasar-tap0' }, netns, { ...plan, taps: [] }), { code: 'INTERNAL', message: /one tap cannot serve 0/ })
  await removeTaps(own, [{ netns: own, name: 'kuasar-tap0' }])
})

t.test('a namespace of one’s own: empty, lasting, and never in place of a file', async (t) => {
  const dir = mkdtempSync('/tmp/netns-')
  const path = join(dir, 'own')
  await makeNetns(path)
  t.teardown(() => {
    execFileSync('umount', [path])
    rmSync(dir, { recursive: true })
  })
  t.match(execFileSync('nsenter', [`--net=${path}`, 'ip', '-o', 'link'], { encoding: 'utf8' }), /^1: lo: <LOOPBACK>/)
  await t.rejects(makeNetns(path), { code: 'EEXIST' })
})

t.test('what is not done in its time is said to be so', async (t) => {
  const { netns } = makeNamespace(t)
  await t.rejects(runInNetns(netns, ['sleep', '60'], 50), { code: 'INTERNAL', message: `iproute2 in ${netns}: not done within 50 ms` })
})
