/**
 * A second client: crictl, which everybody who looks after a node has, goes the demo's way from a pod to its removal. The
 * module and version are critest's (test/conformance/go.mod); what it is given is what its own documentation shows.
 */
import { readFile } from 'node:fs/promises'
import { release } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { checkout, inside as at } from '#test/node/paths.ts'
import { podCgroups } from '#test/node/pod-cgroup.ts'
import { until } from '#test/support/faults.ts'
import { images, microvm, startKuasar } from '#test/support/kuasar.ts'
import { lackOfGo } from '../../tools/go.ts'

const lack = lackOfGo(join(checkout, 'test/conformance'))
if (lack === undefined) await execa('make', ['crictl'], { cwd: checkout })

await t.test('the demo, by crictl', { skip: lack === undefined ? false : `lacks: ${lack}` }, async (t) => {
  const kuasar = await startKuasar()
  t.teardown(() => kuasar[Symbol.asyncDispose]())
  const { node } = kuasar
  const program = `${at.checkout}/build/test/crictl`
  const endpoint = `unix://${at.containerdSocket}`
  /** A microVM that is emulated takes longer to start than the 2 s that crictl waits for an answer. */
  const flags = [`--runtime-endpoint=${endpoint}`, `--image-endpoint=${endpoint}`, '--timeout=120s']
  const crictl = async (...args: string[]) => (await node.run(program, [...flags, ...args])).trim()
  const lines = async (...args: string[]) => (await crictl(...args)).split('\n').filter((line) => line !== '')
  const inspect = (kind: 'inspect' | 'inspectp', id: string, template: string) => crictl(kind, '-o', 'go-template', '--template', `{{${template}}}`, id)
  const write = async (name: string, content: object) => {
    const path = `/scratch/${name}.json`
    await node.run('sh', ['-c', `cat >${path}`], { input: JSON.stringify(content) })
    return path
  }

  /** The kubelet's to make and to remove, which crictl is none of. */
  const cgroupParent = '/kubepods/crictl-demo'
  await podCgroups(node).make(cgroupParent)
  const podFile = await write('pod', {
    metadata: { name: 'demo', namespace: 'default', uid: 'crictl-demo', attempt: 0 },
    hostname: 'demo',
    log_directory: '/var/log/pods/crictl-demo',
    linux: { cgroup_parent: cgroupParent },
  })
  /** What make demo's containers run. */
  const containerFile = (name: string) =>
    write(name, {
      metadata: { name },
      image: { image: images.busybox },
      command: [
        'sh',
        '-c',
        [
          `echo ${name} > /written-by`,
          `echo "I am ${name} on kernel $(uname -r), host name $(hostname)"`,
          'echo "my root says it was written by: $(cat /written-by)"',
          ...(name === 'alice' ? ['echo "alice, over the network" > /index.html; httpd -p 127.0.0.1:8080 -h /; httpd -p 80 -h /'] : []),
          'trap "exit 42" TERM',
          'while :; do sleep 1 & wait $!; done',
        ].join('\n'),
      ],
      log_path: `${name}/0.log`,
      linux: {},
    })

  const pod = await crictl('runp', `--runtime=${microvm}`, podFile)
  const container = async (name: string) => {
    const id = await crictl('create', pod, await containerFile(name), podFile)
    return crictl('start', id)
  }
  const alice = await container('alice')
  const bob = await container('bob')

  await t.test('pods, containers, their state and figures', async (t) => {
    t.match(await lines('pods', '--quiet', '--no-trunc', '--state=ready'), [pod])
    t.same((await lines('ps', '--quiet', '--no-trunc')).toSorted(), [alice, bob].toSorted())
    t.equal(await inspect('inspectp', pod, '.status.runtimeHandler'), microvm)
    t.equal(await inspect('inspect', alice, '.status.state'), 'CONTAINER_RUNNING')
    t.match(await crictl('stats', alice), new RegExp(alice.slice(0, 13)))
    t.match(await crictl('statsp', pod), new RegExp(pod.slice(0, 13)))
    t.match(await crictl('images'), /kuasar\.test\/busybox/)
  })

  await t.test('what the containers print: the image\'s kernel, a root of their own, the pod\'s host name', async (t) => {
    const { kernelRelease }: { readonly kernelRelease: string } = JSON.parse(await readFile(join(checkout, 'build/image/manifest.json'), 'utf8'))
    t.not(kernelRelease, release(), 'which is not the host\'s')
    const says = (name: string, id: string) =>
      until(`${name} says both lines`, async () => {
        const text = await crictl('logs', id)
        return text.includes('written by') ? text : undefined
      })
    for (const [name, id] of [['alice', alice], ['bob', bob]] as const) t.equal(await says(name, id), `I am ${name} on kernel ${kernelRelease}, host name demo\nmy root says it was written by: ${name}`)
    t.equal(await crictl('logs', '--tail=1', alice), 'my root says it was written by: alice')
  })

  await t.test('exec: answered whole, streamed, with a terminal, with an exit code', async (t) => {
    const script = ['sh', '-c', 'echo "I am $(id -un), and my init is: $(cat /proc/1/comm)"']
    t.equal(await crictl('exec', '--sync', alice, ...script), 'I am root, and my init is: init')
    t.equal(await crictl('exec', alice, ...script), 'I am root, and my init is: init')
    const { stdout } = await node.exec(program, [...flags, 'exec', '--interactive', alice, 'sh', '-c', 'cat; echo end'], { input: 'through stdin\n' })
    t.equal(stdout, 'through stdin\nend\n')
    // crictl wants a terminal itself before it asks for one.
    const command = [program, ...flags, 'exec', '--interactive', '--tty', alice, 'tty'].join(' ')
    // The end of script's own input comes first when the terminal still echoes.
    t.match(await node.run('script', ['--quiet', '--return', '--command', command, '/dev/null']), /^(\^@)?\/dev\/pts\/0\r?$/m)
    const failed = await node.exec(program, [...flags, 'exec', '--sync', alice, 'sh', '-c', 'exit 7'])
    t.not(failed.exitCode, 0)
    t.match(failed.stderr, /exited with 7/)
  })

  // crictl offers protocols newer than v4.channel.k8s.io, which is the server's last and what test/cri speaks: a pod of runc's
  // gets the very same answer. Once it is another, exec, attach and port-forward by websocket belong here.
  await t.test('by websocket: containerd 2.1 refuses, before it asks whoever runs the pod', async (t) => {
    const commands = [['exec', alice, 'true'], ['attach', alice], ['port-forward', pod, '18081:8080']] as const
    for (const [command, ...args] of commands) {
      const { stderr, exitCode } = await node.exec(program, [...flags, command, '--transport=websocket', ...args])
      t.not(exitCode, 0, command)
      t.match(stderr, /websocket: bad handshake \(403 Forbidden\)/, command)
    }
  })

  await t.test('the pod over its network, and by port-forward what listens on its localhost alone', async (t) => {
    const get = (host: string) => node.exec('busybox', ['wget', '-q', '-T', '10', '-O', '-', `http://${host}/`])
    const address = await inspect('inspectp', pod, '.status.network.ip')
    t.equal((await get(address)).stdout, 'alice, over the network\n')
    t.not((await get(`${address}:8080`)).exitCode, 0, 'that server is for the pod itself')
    const forward = await node.start({
      name: 'port-forward',
      command: program,
      args: [...flags, 'port-forward', pod, '18080:8080'],
      ready: async () => (await kuasar.sh('cat /scratch/logs/port-forward.log')).includes('Forwarding from 127.0.0.1:18080'),
    })
    t.equal((await get('127.0.0.1:18080')).stdout, 'alice, over the network\n')
    await forward.stop('SIGKILL')
  })

  await t.test('stop, exit code, removal', async (t) => {
    t.equal(await crictl('stop', '--timeout=30', bob), bob)
    t.equal(await inspect('inspect', bob, '.status.exitCode'), '42')
    t.equal(await inspect('inspect', bob, '.status.state'), 'CONTAINER_EXITED')
    t.same(await lines('ps', '--quiet', '--no-trunc'), [alice])
    t.equal(await crictl('rm', bob), bob)
    t.same(await lines('rm', '--force', alice), [alice, alice], 'stopped, and removed')
    t.equal(await crictl('stopp', pod), `Stopped sandbox ${pod}`)
    t.match(await lines('pods', '--quiet', '--no-trunc', '--state=notready'), [pod])
    t.equal(await crictl('rmp', pod), `Removed sandbox ${pod}`)
    t.same([await lines('pods', '--quiet'), await lines('ps', '--all', '--quiet')], [[], []])
  })

  await t.test('what is left', async (t) => {
    await podCgroups(node).remove(cgroupParent)
    await kuasar.sh('rm -rf /var/log/pods/crictl-demo /run/mount')
    t.strictSame(await kuasar.leaks(60_000), [])
  })
})
