/** docs/containerd.md, sections 1 and 2, followed on a node that has a configuration of its own: nothing of it is lost. */
import t from 'tap'
import { configureAsDocumented, installAsDocumented, type Place } from '#test/lab/documented.ts'
import { startNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'

/** As Debian's package has it, and as a cluster with the systemd driver changes it. */
const before = (imports: string) => `version = 2
${imports}
[plugins."io.containerd.grpc.v1.cri"]
  max_container_log_line_size = 4242
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true
`

const node = await startNode({ images: false })
t.teardown(() => node[Symbol.asyncDispose]())

/** With the node's own programs alone: no Node is installed there. */
const place: Place = {
  sh: (script) => node.run('bash', ['-euc', script], { env: { PATH: '/usr/local/bin:/usr/bin:/bin' } }),
  async writeFile(path, content) {
    await node.run('sh', ['-c', 'mkdir -p "$(dirname "$0")" && cat >"$0"', path], { input: content })
  },
}
/** What containerd makes of its files, without what the drop-in adds. */
const dump = async () => (await place.sh('containerd config dump')).split('\n').filter((line) => !line.startsWith('imports = '))

t.test('installed, the sandboxer takes its configuration and kuasarctl is a command', async (t) => {
  await installAsDocumented(place, inside.checkout)
  t.match(await place.sh('containerd-shim-kuasar-qemu-v1 -info'), /runtime-spec\/1\/features\/Features/)
  await t.rejects(place.sh('kuasarctl list'), /kuasarctl: the sandboxer does not answer/)
})

const files = {
  'version 2': before(''),
  'version 2 with an empty list of imports': before('imports = []'),
  'Debian’s': await place.sh('cat /etc/containerd/config.toml'),
}
for (const [name, content] of Object.entries(files)) {
  t.test(`a main file, ${name}, keeps all it says beside the drop-in`, async (t) => {
    await place.sh('rm -rf /etc/containerd/conf.d')
    await place.writeFile('/etc/containerd/config.toml', content)
    const was = await dump()
    t.match(was.join('\n'), name === 'Debian’s' ? /bin_dirs = \['\/usr\/lib\/cni'\]/ : /SystemdCgroup = true/)
    await configureAsDocumented(place)
    const is = await dump()
    const kept = new Set(is)
    t.same(was.filter((line) => !kept.has(line)), [], 'every line')
    t.match(is.join('\n'), /runtimes\.kuasar-qemu\][^]*\[proxy_plugins\.kuasar-qemu\]/, 'and the drop-in is in force')
  })
}
