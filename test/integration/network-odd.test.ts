/** What other CNI plugins leave in a pod's namespace, what cannot be carried, what fails half-way, and what changes later. */
import t, { type Test } from 'tap'
import { readFile } from 'node:fs/promises'
import { execa } from 'execa'
import { podConfig } from '#test/cri/config.ts'
import { checkout, inside as at } from '#test/node/paths.ts'
import { podCgroups } from '#test/node/pod-cgroup.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { signalProcess, stateOf, until } from '#test/support/faults.ts'
import { inside, microvm, startKuasar } from '#test/support/kuasar.ts'
import { ask, attributesInGuest, attributesOfCni, cniTables, guestTables, netnsOf, nodeUsr, sameTables, server } from '#test/support/network.ts'

/** Short: each change of a network is waited for. */
const beatMs = 1000

/** What the namespace held when CNI's DEL came, which containerd calls once Stop was answered. */
const atDel = '/tmp/at-del'
const look = `(ip -o link; tc qdisc show ingress) >${atDel}`

await execa('make', ['container-tools'], { cwd: checkout })
const kuasar = await startKuasar({ sandboxer: { config: { ...sandboxerConfig, limits: { beat_ms: beatMs } } } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { containerd, sandboxer, node } = kuasar
const cgroups = podCgroups(node)
const log = () => readFile(sandboxer.service.logFile, 'utf8')
/** `add` runs in the namespace after CNI's bridge, `del` before it is asked to remove the pod. */
const bridge = (add: string, del = look) => containerd.setNetwork({ kind: 'bridge', add, del })

async function nothingOfOurs(t: Test): Promise<void> {
  const left = await readFile(node.path(atDel), 'utf8')
  t.match(left, /^1: lo/)
  t.notMatch(left, /kuasar|ingress/, 'tap and redirection were gone when CNI removed the pod')
  await kuasar.sh(`rm ${atDel}`)
}

/** The error of a pod that does not start; nothing of it is left, and no call comes after it. */
async function errorOf(t: Test, name: string): Promise<string> {
  const config = podConfig({ name })
  await cgroups.make(config.linux.cgroupParent)
  const starting: Promise<unknown> = containerd.cri.runtime.RunPodSandbox({ config, runtimeHandler: microvm })
  const error = await starting.catch((thrown: unknown) => thrown)
  await cgroups.remove(config.linux.cgroupParent)
  await nothingOfOurs(t)
  t.strictSame(await kuasar.leaks(), [])
  return error instanceof Error ? error.message : 'it started'
}

const tooLarge = 'ip link add net1 type veth peer name net2 && ip link set dev net2 mtu 65535'
for (const [name, script, message, del] of [
  ['kind', 'ip link add br7 type bridge', /start failed at step network: network interface br7 of the pod is of kind bridge, which cannot be carried into a sandbox: expected one of veth, macvlan, /],
  ['nested', 'ip link add link eth0 name mv0 type macvlan', /network interface mv0 of the pod lies on eth0/],
  ['table', 'ip route add 192.0.2.0/24 dev eth0 table 100', /IPv4 route to 192\.0\.2\.0\/24 is in table 100: only the main table/],
  // Somebody else's qdisc is somebody else's to remove.
  ['qdisc', 'tc qdisc add dev eth0 clsact', /network interface eth0 of the pod already has a qdisc for incoming frames/, `tc qdisc del dev eth0 clsact; ${look}`],
  ['tap', tooLarge, /step network: ip link set dev kuasar-tap\d mtu 65535 up: Error: mtu greater than device maximum\. \(in the network namespace /],
] as const)
  t.test(`refused or failed half-way, by name, and nothing is left: ${name}`, async (t) => {
    await bridge(script, del)
    t.match(await errorOf(t, `no-${name}`), message)
  })

t.test('tc fails half-way: the command, its message, and nothing left', async (t) => {
  await bridge('true')
  // tc itself fails, at the fourth of its lines: by then one direction is redirected.
  const shim = '#!/bin/sh\ncase $1 in -batch) sed "4s/dev [^ ]*$/dev nowhere/" | tc.real "$@" ;; *) exec tc.real "$@" ;; esac\n'
  await kuasar.sh(`mv /usr/sbin/tc /usr/sbin/tc.real && printf '%s' '${shim}' >/usr/sbin/tc && chmod +x /usr/sbin/tc`)
  try {
    t.match(await errorOf(t, 'no-tc'), /step network: tc filter add dev kuasar-tap0 parent ffff: .* redirect dev eth0: \S.*nowhere.* \(in the network namespace /)
  } finally {
    await kuasar.sh('mv /usr/sbin/tc.real /usr/sbin/tc')
  }
})

t.test('no link but loopback', async (t) => {
  await bridge('ip link delete dev eth0')
  const pod = await kuasar.pod('alone')
  const container = await pod.run(server)
  t.equal(await inside(container, 'ls /sys/class/net'), 'lo')
  for (const address of ['127.0.0.1', '::1']) t.equal(await inside(container, ask(address)), 'alone')
  await pod.remove()
  await nothingOfOurs(t)
})

/** Both have one MAC, and each leads to the node: by the address there one tells them apart. */
const twins = ['twin1', 'twin2'] as const
const twin = (name: string, index: number) => `
ip link add ${name} address 02:00:00:00:00:21 type veth peer name ${name}-node
ip addr add 10.99.${index}.1/24 dev ${name}
ip link set ${name} up
ip link set ${name}-node netns 1
nsenter --net=/proc/1/ns/net sh -euc "ip addr add 10.99.${index}.254/24 dev ${name}-node; ip addr add fe80::99:${index}/64 dev ${name}-node nodad; ip link set ${name}-node up"`

const plenty = `
ip link set dev eth0 mtu 1400
${twins.map(twin).join('')}
ip tuntap add dev net1 mode tap && ip link set dev net1 mtu 1300 up
ip addr add 10.97.0.1/24 dev net1
ip addr add fd00:97::1/64 dev net1 nodad
ip link add net3 type veth peer name net4
ip addr add 10.98.0.1 peer 10.98.0.2/32 dev net3
for i in $(seq 40); do ip route add 10.100.$i.0/24 via 10.88.0.1; done
ip route add 10.101.0.0/16 nexthop via 10.88.0.1 weight 2 nexthop via 10.88.0.9
ip route add blackhole 10.102.0.0/16
ip route add 10.103.0.0/16 via 192.0.2.1 dev eth0 onlink metric 7 mtu 1200
ip addr add fd00:88::5/64 dev eth0 nodad preferred_lft 0
ip -6 route add fd01::/64 via fe80::9 dev eth0 pref high
ip route add default via 10.88.0.9 metric 500
ip neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
ip neigh add fe80::9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent`

t.test('a pod that has everything, and whose network changes', async (t) => {
  await bridge(plenty)
  const pod = await kuasar.pod('plenty', { 'io.kuasar.vcpus': '2' })
  const container = await pod.run({ ...server, mounts: [nodeUsr] })
  const ip = (await pod.status()).network?.ip ?? ''
  const netns = await netnsOf(kuasar, pod)
  const inPod = (script: string) => kuasar.sh(`nsenter --net=${netns} sh -euc '${script}'`)
  const same = async (t: Test, about: string) => t.strictSame(...(await sameTables(() => guestTables(container), () => cniTables(kuasar, pod))), about)

  await t.test('several links, two with one MAC, one that is down, 40 routes, static neighbours, two processors', async (t) => {
    const given = await cniTables(kuasar, pod)
    t.strictSame(new Set(given.links.map((line) => line.split(' ')[0])), new Set(['eth0', ...twins, 'net1', 'net3', 'net4']))
    t.ok(given.routes.length > 45 && given.neighbours.length === 2, `${given.routes.length} routes`)
    await same(t, 'the guest has what CNI gave')
    const [inGuest, ofCni] = await sameTables(() => attributesInGuest(container), () => attributesOfCni(kuasar, pod))
    t.match(JSON.stringify(ofCni), /"weight":2.*"mtu":1200|"mtu":1200.*"weight":2/)
    t.strictSame(inGuest, ofCni, 'weights, MTUs, preferences and lifetimes as well')
    t.equal(await inside(container, 'cd /sys/class/net/eth0/queues; echo rx*'), 'rx-0 rx-1')
    t.equal((await kuasar.sh(ask(ip))).trim(), 'plenty', 'and it is reached')
  })

  await t.test('of two links with one MAC each is itself', async (t) => {
    for (const [index, name] of twins.entries()) {
      t.equal((await kuasar.sh(ask(`10.99.${index}.1`))).trim(), 'plenty', name)
      await until(`fe80::99:${index} by ${name}`, async () => (await container.execSync(['ping', '-6', '-c', '1', '-W', '10', '-I', name, `fe80::99:${index}`])).exitCode === 0)
      const wrong = await container.execSync(['ping', '-6', '-c', '1', '-W', '1', '-I', name, `fe80::99:${1 - index}`])
      t.not(wrong.exitCode, 0, `not what is behind the other`)
    }
  })

  await t.test('addresses, routes and a neighbour that came', async (t) => {
    await inPod('ip addr add 10.88.77.7/16 dev eth0; ip addr add fd00:77::7/64 dev eth0 nodad; ip route add 10.77.0.0/16 via 10.88.0.1; ip neigh add 10.88.0.8 lladdr 02:00:00:00:00:08 dev eth0 nud permanent')
    await same(t, 'the guest has them')
    t.equal((await kuasar.sh(ask('10.88.77.7'))).trim(), 'plenty')
  })

  await t.test('after a restart of the sandboxer: what went, and another MTU', async (t) => {
    await sandboxer.restart('SIGKILL')
    t.equal(await stateOf(pod), 'SANDBOX_READY')
    t.equal((await kuasar.sh(ask(ip))).trim(), 'plenty', 'the network of an adopted guest goes on')
    await inPod('ip addr del 10.88.77.7/16 dev eth0; ip addr del fd00:77::7/64 dev eth0; ip route del 10.77.0.0/16; ip neigh del 10.88.0.8 dev eth0; ip link set dev net1 mtu 1280')
    await same(t, 'the guest has them no longer')
    await inPod('ip link set dev eth0 mtu 1500')
    await same(t, 'an MTU may also grow')
    await inside(container, 'head -c 1048576 /dev/urandom >/www/data')
    t.equal(await kuasar.sh(`busybox wget -q -O - http://${ip}/data | sha256sum`), `${await inside(container, 'sha256sum </www/data')}\n`, 'and large frames pass')
  })

  await t.test('a link that came is complained of once, one that went is idle, and no other change is held up', async (t) => {
    await inPod('ip link delete dev net3; ip link add late0 type veth peer name late1')
    await until('the complaint', async () => /"level":"error".*late[01] of the pod came, or changed its MAC, after the start.*late[01] of the pod came/.test(await log()))
    await until('net3 is down and has no address', async () => {
      const { links, addresses } = await guestTables(container)
      return links.some((line) => /^net3 .* mtu \d+$/.test(line)) && !addresses.some((line) => line.startsWith('net3 '))
    })
    t.equal((await log()).match(/late0 of the pod came/g)?.length, 1, 'said once')
    await inPod('ip link add br7 type bridge && ip link set br7 up && ip addr add 10.71.0.1/24 dev br7; ip route add 10.72.0.0/24 dev eth0 table 100; ip addr add 10.88.77.8/16 dev eth0')
    await until('the other complaint', async () => /"level":"error".*interface br7 of the pod is of kind bridge.*route to 10\.72\.0\.0\/24 is in table 100/.test(await log()))
    await until('what else has changed has come', async () => (await guestTables(container)).addresses.some((line) => line.includes('10.88.77.8')))
  })

  await t.test('its namespace goes before Stop', async (t) => {
    await kuasar.sh(`busybox umount ${netns} && rm ${netns}`)
    await pod.stop()
    t.equal((await pod.status()).state, 'SANDBOX_NOTREADY')
    await pod.remove()
    t.strictSame(await kuasar.leaks(), [])
  })
})

const wired = 'ip tuntap add dev net1 mode tap && ip link set dev net1 mtu 1600 up; ip addr add 10.97.0.1/24 dev net1; ip addr add fd00:97::1/64 dev net1 nodad'

t.test('a tap whose frames a program carries', async (t) => {
  await bridge(wired)
  const pod = await kuasar.pod('tapped')
  const container = await pod.run(server)
  const netns = await netnsOf(kuasar, pod)
  await kuasar.sh('ip tuntap add dev wire0 mode tap && ip link set dev wire0 mtu 1600 up && ip addr add 10.97.0.254/24 dev wire0 && ip addr add fd00:97::fe/64 dev wire0 nodad')
  const wire = await node.start({ name: 'tap-wire', command: `${at.checkout}/build/test/tap-wire`, args: [netns, 'net1', 'wire0'] })
  await until('both ends are open', async () => (await readFile(wire.logFile, 'utf8')).includes('open'))
  for (const [guest, beyond] of [['10.97.0.1', '10.97.0.254'], ['fd00:97::1', 'fd00:97::fe']] as const) {
    t.equal((await kuasar.sh(ask(guest))).trim(), 'tapped', `from beyond the tap to ${guest}`)
    await until(`from the guest to ${beyond}`, async () => (await container.execSync(['ping', '-c', '1', '-W', '10', beyond])).exitCode === 0)
  }
  // A program gets whole frames and whole sums, though guest and VMM may leave both to whoever comes next.
  await inside(container, `head -c ${2 ** 20} /dev/urandom >/www/data`)
  t.equal(await kuasar.sh('busybox wget -q -O - http://10.97.0.1/data | sha256sum'), `${await inside(container, 'sha256sum </www/data')}\n`, 'large from the guest')
  await kuasar.sh(`mkdir -p /scratch/www && head -c ${2 ** 20} /dev/urandom >/scratch/www/data`)
  const httpd = await node.start({ name: 'wired-httpd', command: 'busybox', args: ['httpd', '-f', '-p', '10.97.0.254:8080', '-h', '/scratch/www'] })
  t.equal(await inside(container, 'for i in 1 2 3 4 5; do wget -q -O /received http://10.97.0.254:8080/data && break; sleep 1; done; sha256sum </received'), (await kuasar.sh('sha256sum </scratch/www/data')).trim(), 'and to it')

  await wire.stop()
  t.not((await container.execSync(['ping', '-c', '1', '-W', '2', '10.97.0.254'])).exitCode, 0, 'and it was that program')
  await httpd.stop()
  await kuasar.sh('ip link delete dev wire0; rm -r /scratch/www')
  await pod.remove()
  await nothingOfOurs(t)
})

t.test('a guest that dies takes its taps along, and leaves CNI\'s link', async (t) => {
  await bridge('true')
  const pod = await kuasar.pod('dying')
  const netns = await netnsOf(kuasar, pod)
  await signalProcess(node, pod.id, 'qemu', 'KILL')
  await until('the taps to go', async () => !/kuasar|ingress/.test(await kuasar.sh(`nsenter --net=${netns} sh -c 'ip -o link; tc qdisc show ingress'`)))
  t.match(await kuasar.sh(`nsenter --net=${netns} ip -o -4 addr`), / eth0 /)
  await pod.remove()
  await nothingOfOurs(t)
})

t.test('nothing is left', async (t) => {
  t.strictSame(await kuasar.leaks(), [])
})
