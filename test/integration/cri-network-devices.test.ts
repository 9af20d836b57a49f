/** A container with the right to administer its network makes devices of its own; the guest loads their drivers for it. */
import t from 'tap'
import { idle, inside, startKuasar } from '#test/support/kuasar.ts'

await using kuasar = await startKuasar()
const pod = await kuasar.pod('devices')
const admin = await pod.run({ ...idle, name: 'admin', security: { capabilities: { addCapabilities: ['NET_ADMIN'] } } })
const plain = await pod.run({ ...idle, name: 'plain' })

await t.test('every kind of device that needs a driver', async (t) => {
  t.equal(await inside(admin, 'ls /sys/module | grep -cE "^(bridge|veth|dummy|macvlan|ipvlan|8021q)$" || true'), '0', 'none is loaded before')
  await inside(admin, 'brctl addbr by-ioctl')
  await inside(admin, 'ip link add by-netlink type bridge')
  await inside(admin, 'ip link add d0 type dummy; ip link set d0 up; ip link add v0 type veth')
  await inside(admin, 'ip link add link d0 name d0.7 type vlan id 7; ip link add link d0 name m0 type macvlan; ip link add link v0 name i0 type ipvlan')
  const names = (await inside(admin, 'ls /sys/class/net')).split(/\s+/)
  for (const name of ['by-ioctl', 'by-netlink', 'd0', 'd0.7', 'v0', 'm0', 'i0']) t.ok(names.includes(name), name)
})

await t.test('not for a container without the right, and not for what the image does not carry', async (t) => {
  for (const command of [['brctl', 'addbr', 'no'], ['ip', 'link', 'add', 'no', 'type', 'dummy']])
    t.match((await plain.execSync(command)).stderr, /Operation not permitted/, command.join(' '))
  t.match((await admin.execSync(['ip', 'link', 'add', 'no', 'type', 'nosuchkind'])).stderr, /Operation not supported|Not supported/)
})

await t.test('nft: filters, connection tracking and redirection', async (t) => {
  const host = { mounts: [{ hostPath: '/usr', containerPath: '/host/usr', readonly: true }] }
  const mesh = await pod.run({ ...idle, ...host, name: 'mesh', security: { capabilities: { addCapabilities: ['NET_ADMIN'] } } })
  await inside(mesh, 'ln -s usr/lib /host/lib; ln -s usr/lib64 /host/lib64')
  const nft = (rules: string) => inside(mesh, `chroot /host /usr/sbin/nft '${rules}'`)
  t.equal(await inside(mesh, 'ls /sys/module | grep -cE "^(nf_tables|nf_conntrack|nft_)" || true'), '0', 'none is loaded before')
  await nft('add table inet mesh; add chain inet mesh out { type nat hook output priority -100; }; add rule inet mesh out tcp dport 9999 redirect to :8080')
  await nft('add chain inet mesh in { type filter hook input priority 0; }; add rule inet mesh in ct state established,related counter accept; add rule inet mesh in tcp dport 7777 reject with tcp reset')
  await nft('add rule inet mesh in limit rate 5/second log prefix "seen"; add chain inet mesh post { type nat hook postrouting priority 100; }; add rule inet mesh post masquerade')
  t.equal(await inside(mesh, 'nc -l -p 8080 -e echo redirected & until nc 127.0.0.1 9999 2>/dev/null; do sleep 0.1; done'), 'redirected')
  t.match(await inside(mesh, 'chroot /host /usr/sbin/nft list ruleset'), /redirect to :8080[\s\S]*counter packets [1-9]/)
  t.match(await mesh.execSync(['sh', '-c', 'echo | nc -w 5 127.0.0.1 7777']), { exitCode: 1 })
})

await pod.remove()
t.strictSame(await kuasar.leaks(), [])
