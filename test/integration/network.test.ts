/** A pod on CNI's bridge: the guest has what CNI gave it, exactly, and everybody reaches everybody. */
import t from 'tap'
import { ask, cniTables, guestTables, server } from '#test/support/network.ts'
import { inside, microvm, startKuasar } from '#test/support/kuasar.ts'

/** The node, from its pods. */
const gateway = '10.88.0.1'
const nodePort = 8080

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { cri } = kuasar.containerd
const { node } = kuasar

const digest = (file: string) => `sha256sum ${file} | cut -d " " -f 1`

/** Answers every question for an address with 10.88.0.1. */
const dnsServer = `require('dgram').createSocket('udp4').on('message', function (question, { address, port }) {
  const header = Buffer.from([question[0], question[1], 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0])
  const end = question.indexOf(0, 12) + 5
  const ipv4 = question[end - 3] === 1
  if (!ipv4) header[7] = 0
  const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 88, 0, 1])
  this.send(Buffer.concat([header, question.subarray(12, end), ipv4 ? answer : Buffer.alloc(0)]), port, address)
}).bind(53, '0.0.0.0')`

const dns = { servers: [gateway], searches: ['test.local'], options: ['ndots:2'] }
const one = await cri.runPod({ name: 'one', dns }, microvm)
const [first, other, ordinary] = [await one.run(server), await cri.runPod({ name: 'two', dns }, microvm), await cri.runPod({ name: 'three', dns }, 'runc')]
const [second, third] = [await other.run(server), await ordinary.run(server)]
const [oneIp, twoIp, threeIp] = await Promise.all([one, other, ordinary].map(async (pod) => (await pod.status()).network?.ip ?? ''))

t.test('the guest has what CNI gave the pod', async (t) => {
  const given = await cniTables(kuasar, one)
  t.match(given.addresses, [/^eth0 inet 10\.88\.\d+\.\d+\/16 brd 10\.88\.255\.255 scope global$/, /^eth0 inet6 fe80:/])
  t.match(given.routes, [/^10\.88\.0\.0\/16 dev eth0 /, /^default via 10\.88\.0\.1 dev eth0/, /^fe80::\/64 dev eth0/])
  t.strictSame(await guestTables(first), given)
  t.equal(await inside(first, 'ls /sys/class/net'), 'eth0\nlo')
})

t.test('everybody reaches everybody', async (t) => {
  await node.start({ name: 'httpd', command: 'sh', args: ['-c', `mkdir -p /tmp/www && echo node >/tmp/www/index.html && exec busybox httpd -f -p ${nodePort} -h /tmp/www`] })
  for (const [from, to, address, port] of [
    [first, 'node', gateway, nodePort],
    [first, 'two', twoIp, 80],
    [first, 'three', threeIp, 80],
    [second, 'one', oneIp, 80],
    [third, 'one', oneIp, 80],
  ] as const)
    t.equal(await inside(from, ask(address ?? '', port)), to, `${to} at ${address}`)
  for (const [to, address] of [['one', oneIp], ['two', twoIp]] as const) t.equal((await kuasar.sh(ask(address ?? ''))).trim(), to, `the node reaches ${to}`)
})

t.test("names are resolved by the pod's own servers", async (t) => {
  await node.start({ name: 'dns', command: 'node', args: ['-e', dnsServer] })
  t.equal(await inside(first, 'cat /etc/resolv.conf'), 'search test.local\nnameserver 10.88.0.1\noptions ndots:2')
  t.equal(await inside(first, ask('some.name', nodePort)), 'node')
})

t.test('64 MiB each way, byte for byte', async (t) => {
  await kuasar.sh('head -c 67108864 /dev/urandom >/tmp/www/data')
  const sent = (await kuasar.sh(digest('/tmp/www/data'))).trim()
  t.equal(await inside(first, `wget -q -O /tmp/data http://${gateway}:${nodePort}/data && ${digest('/tmp/data')}`), sent)
  await inside(first, 'mv /tmp/data /www/data')
  t.equal((await kuasar.sh(`busybox wget -q -O /tmp/back http://${oneIp}/data && ${digest('/tmp/back')}`)).trim(), sent)
})

t.test('nothing is left', async (t) => {
  for (const pod of [one, other, ordinary]) await pod.remove()
  await Promise.all(node.services.filter(({ name }) => name === 'httpd' || name === 'dns').map((service) => service.stop()))
  await kuasar.sh('rm -rf /tmp/www /tmp/back')
  t.strictSame(await kuasar.leaks(), [])
})
