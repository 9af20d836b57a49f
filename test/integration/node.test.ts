/** The test node and the CRI client, proven on containerd's own runc pods. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import t from 'tap'
import { images } from '#test/images/catalog.ts'
import { containerdSeed, ensureBuilt } from '#test/node/built.ts'
import { nodeCgroups } from '#test/node/cgroup.ts'
import { collectDeadNodes } from '#test/node/collect.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { leaksSince, snapshot } from '#test/node/leaks.ts'
import { startNode } from '#test/node/node.ts'
import { buildDir, checkout, runDir } from '#test/node/paths.ts'
import { rootDir } from '#test/node/root.ts'

const namespaceKinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'uts'] as const

/** The namespaces of a process, as the kernel names them: "net:[4026531840]". */
async function namespacesOf(pid: string): Promise<string[]> {
  const links = namespaceKinds.map((kind) => readlink(`/proc/${pid}/ns/${kind}`).catch(() => ''))
  return (await Promise.all(links)).filter((name) => name !== '')
}

/** All namespaces that processes of the node are in and we are not, its pods' among them. */
async function namespacesIn(name: string): Promise<string[]> {
  const ours = await namespacesOf('self')
  const found = await Promise.all((await processesOf(name)).map(namespacesOf))
  return [...new Set(found.flat())].filter((namespace) => !ours.includes(namespace))
}

/** Every process whose command line or cgroups still name the node. */
async function processesOf(name: string): Promise<string[]> {
  const found: string[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    if ((await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')).includes(name)) found.push(pid)
  }
  return found
}

/** What there is of a node. Its namespaces are in use as long as a process is in one, or a mount holds one's file. */
async function traces(name: string, namespaces: readonly string[] = []): Promise<Record<string, unknown>> {
  const held: string[] = []
  const mounts: string[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const mountinfo = await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => '')
    mounts.push(...mountinfo.split('\n').filter((line) => line.includes(name)).map((line) => `${pid}: ${line}`))
    const here = await namespacesOf(pid)
    held.push(...namespaces.filter((namespace) => here.includes(namespace) || mountinfo.includes(namespace)).map((namespace) => `${pid}: ${namespace}`))
  }
  return {
    processes: await processesOf(name),
    mounts,
    namespaces: held,
    cgroups: (await nodeCgroups(name)).filter((cgroup) => cgroup === name),
    directory: existsSync(`${runDir}/${name}`),
  }
}

const nothing: Readonly<Record<string, unknown>> = { processes: [], mounts: [], namespaces: [], cgroups: [], directory: false }

/** What is built, by inode and time. */
async function identities(): Promise<Record<string, unknown>> {
  const [root, seed] = await Promise.all([rootDir, containerdSeed].map((path) => stat(path, { bigint: true })))
  const names = (await readdir(buildDir)).filter((name) => name !== 'lock')
  return { root: [root?.ino, root?.mtimeNs], seed: [seed?.ino, seed?.mtimeNs], names: names.toSorted() }
}

t.test('what it starts from is built once', async (t) => {
  await ensureBuilt()
  const before = await identities()
  await ensureBuilt()
  const { stderr } = await execa(process.execPath, [join(checkout, 'test/node/build.ts')])
  t.equal(stderr, `node: ${rootDir} is up to date`)
  t.same(await identities(), before)
})

t.test('its namespaces are its own', async (t) => {
  await using node = await startNode()
  const inside = (await node.run('readlink', namespaceKinds.map((kind) => `/proc/self/ns/${kind}`))).trimEnd().split('\n')
  t.same(inside.map((name) => name.split(':')[0]), namespaceKinds)
  const ours = await namespacesOf('self')
  t.equal(ours.length, namespaceKinds.length)
  for (const name of inside) t.notOk(ours.includes(name), name)
  t.same(await namespacesOf(String(node.pid)), inside, 'and its first process is in them')
})

t.test('programs inside', async (t) => {
  await using node = await startNode()

  await t.test('run to their end', async (t) => {
    const script = 'pwd; echo "$KEY $LEAKED"; cat; echo complaint >&2; exit 9'
    process.env['LEAKED'] = 'from outside'
    const result = await node.exec('sh', ['-c', script], { cwd: '/scratch', env: { KEY: 'value' }, input: 'fed' })
    t.strictSame(result, { stdout: '/scratch\nvalue \nfed', stderr: 'complaint\n', exitCode: 9 })
    t.equal((await node.exec('sh', ['-c', 'kill -TERM $$'])).exitCode, 128 + 15)
    t.equal((await node.exec('/no/such/program')).exitCode, 127)
    await t.rejects(node.run('sh', ['-c', 'echo why; exit 1']), /sh -c echo why; exit 1 ended with 1:\nwhy/)
    t.equal(await node.run('node', ['--print', 'process.versions.node']), `${process.versions.node}\n`)
  })

  await t.test('die with the call that is aborted', async (t) => {
    const abort = new AbortController()
    const ended = node.exec('sh', ['-c', 'echo $$ >/run/pid; exec sleep 1000'], { signal: abort.signal })
    await node.run('sh', ['-c', 'until [ -s /run/pid ]; do sleep 0.05; done'])
    abort.abort()
    t.equal((await ended).exitCode, 137)
    const gone = 'while [ -d "/proc/$(cat /run/pid)" ]; do sleep 0.05; done; echo gone'
    t.equal(await node.run('sh', ['-c', gone]), 'gone\n')
  })

  await t.test('run on as services', async (t) => {
    const beat = 'trap "echo bye; exit 4" TERM; i=0; while :; do i=$((i+1)); echo $i >/run/beat; sleep 0.05; done'
    const ready = async () => existsSync(node.path('/run/beat'))
    const service = await node.start({ name: 'beat', command: 'sh', args: ['-c', beat], ready })
    t.equal(await readFile(`/proc/${service.pid}/root/etc/hostname`, 'utf8'), 'kuasar-node\n', 'its pid is the outer one')
    t.ok((await service.openFiles()).includes('/dev/null'))
    t.ok((await service.residentKiB()) > 0)

    service.signal('SIGSTOP')
    while (!/^State:\tT/m.test(await readFile(`/proc/${service.pid}/status`, 'utf8'))) await sleep(10)
    const frozen = await node.run('cat', ['/run/beat'])
    service.signal('SIGCONT')
    await node.run('sh', ['-c', `until [ "$(cat /run/beat)" != "${frozen.trim()}" ]; do sleep 0.05; done`])

    t.strictSame(await service.stop(), { code: 4, signal: null })
    t.equal(await service.log(), 'bye\n')
    t.equal(service.running, false)
    const stubborn = await node.start({
      name: 'stubborn',
      command: 'sh',
      args: ['-c', 'trap "" TERM; touch /run/stubborn; while :; do sleep 1; done'],
      ready: async () => existsSync(node.path('/run/stubborn')),
    })
    t.equal((await stubborn.stop('SIGTERM', 100)).signal, 'SIGKILL')
  })

  await t.test('that do not get ready are an error with their last words', async (t) => {
    const service = { name: 'broken', command: 'sh', args: ['-c', 'echo no luck; exit 3'], ready: async () => false }
    await t.rejects(node.start(service), /broken (ended at once \(exit status 3\)|could not be started).*no luck/s)
    const slow = { name: 'slow', command: 'sleep', args: ['1000'], ready: async () => false, readyMsMax: 100 }
    await t.rejects(node.start(slow), /slow did not become ready: sleep 1000/)
  })
})

t.test('a runc pod from run to removal', async (t) => {
  await using node = await startNode()
  await using containerd = await startContainerd(node)
  const { cri } = containerd
  const before = await snapshot(node)

  const pod = await cri.runPod({ name: 'pair', hostname: 'pair-host' }, 'runc')
  const status = await pod.status()
  t.equal(status.state, 'SANDBOX_READY')
  t.match(status.network?.ip, /^10\.88\./, 'the pod has an address of the bridge')

  const first = await pod.run({
    name: 'first',
    command: ['sh', '-c', 'echo out; echo err >&2; hostname; echo mine >/own; sleep 1000'],
  })
  const second = await pod.run({ name: 'second', command: ['sh', '-c', 'test -e /own || echo apart; exit 7'] })

  await t.test('output, exit code, a root file system of its own', async (t) => {
    await first.outputMatching(/pair-host/)
    t.strictSame(
      (await first.log()).map(({ stream, text }) => `${stream} ${text}`).sort(),
      ['stderr err', 'stdout out', 'stdout pair-host'],
    )
    const ended = await second.exited()
    t.equal(ended.exitCode, 7)
    t.equal(await second.output(), 'apart\n')
  })

  await t.test('execSync', async (t) => {
    const result = await first.execSync(['sh', '-c', 'echo a; echo b >&2; exit 3'])
    t.strictSame(result, { stdout: 'a\n', stderr: 'b\n', exitCode: 3 })
    await t.rejects(first.execSync(['/no/such/command']), /no such file/)
  })

  await t.test('a streaming exec', async (t) => {
    const stream = await first.exec(['sh', '-c', 'read line; echo "got $line"; echo e >&2; exit 5'], { stdin: true })
    stream.write('a line\n')
    t.match(await stream.done, { stdout: 'got a line\n', stderr: 'e\n', exitCode: 5 })

    const terminal = await first.exec(['sh'], { stdin: true, tty: true })
    terminal.resize({ columns: 132, rows: 43 })
    terminal.write('until [ "$(stty size)" = "43 132" ]; do sleep 0.1; done; tty; exit 6\n')
    const result = await terminal.done
    t.match(result.stdout, /\/dev\/pts\/\d/)
    t.equal(result.exitCode, 6)
  })

  await t.test('the end of a WebSocket is the end of standard input', async (t) => {
    const stream = await first.exec(['sh', '-c', 'cat >/fed; echo over >>/fed'], { stdin: true })
    stream.write('food\n')
    stream.close()
    await t.resolveMatch(
      first.execSync(['sh', '-c', 'until grep -q over /fed; do sleep 0.1; done; cat /fed'], 30),
      { stdout: 'food\nover\n' },
    )
  })

  await t.test('attach', async (t) => {
    const echo = await pod.run({ name: 'echo', stdin: true, command: ['sh', '-c', 'while read x; do echo "<$x>"; done'] })
    const stream = await echo.attach({ stdin: true })
    stream.write('hello\n')
    await stream.output((stdout) => stdout.includes('<hello>'))
    stream.close()
    await echo.remove()
    t.equal(await echo.status().catch((error: Error) => /not found/i.test(error.message)), true, 'it is gone')
  })

  await t.test('stats', async (t) => {
    const stats = await first.stats()
    t.ok(Number(stats.memory?.usageBytes?.value) > 0)
    t.ok(Number(stats.cpu?.usageCoreNanoSeconds?.value) > 0)
    t.ok(Number((await pod.stats()).linux?.memory?.usageBytes?.value) > 0)
  })

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    await t.test(`containerd restarts after ${signal}`, async (t) => {
      await containerd.restart(signal)
      t.equal((await first.status()).state, 'CONTAINER_RUNNING')
      t.equal((await second.status()).exitCode, 7)
      t.match(await first.execSync(['cat', '/own']), { stdout: 'mine\n' })
    })
  }

  await pod.remove()
  t.strictSame(await cri.pods(), [])
  t.strictSame(await leaksSince(node, before), [])
})

t.test('the test images', async (t) => {
  await using node = await startNode()
  await using containerd = await startContainerd(node)
  await using pod = await containerd.cri.runPod({}, 'runc')

  const config = await pod.run({ image: images.config })
  await config.exited()
  t.equal(await config.output(), 'uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n/srv/app\nhello from the image\n')

  const layers = await pod.run({ image: images.layers, command: ['sh', '-c', 'cat /layers/top; ls /layers | sort -n | xargs'] })
  await layers.exited()
  t.equal(await layers.output(), '49\ntop 48 49\n')

  const volume = await pod.run({ image: images.volume, command: ['sh', '-c', 'grep -c " /data " /proc/mounts'] })
  await volume.exited()
  t.equal(await volume.output(), '1\n')
})

t.test('what leaks is reported', async (t) => {
  await using node = await startNode()
  const before = await snapshot(node)
  t.strictSame(await leaksSince(node, before), [])
  await node.run('sh', ['-c', 'setsid sleep 1000 >/dev/null 2>&1 & until grep -q ^sleep /proc/$!/cmdline; do sleep 0.01; done'])
  await node.run('sh', ['-c', 'mkdir -p /run/a/b && mount -t tmpfs tmpfs /run/a/b && ip link add left type bridge'])
  for (const cgroup of node.cgroups) await mkdir(`${cgroup}/stray`)
  const leaks = await leaksSince(node, before, 0)
  t.match(leaks[0], /^process \d+ of \d+ sleep 1000/)
  t.ok(leaks.includes('mount /run/a/b tmpfs tmpfs rw'))
  t.ok(leaks.includes('interface left'))
  t.ok(leaks.includes('file /run/a directory'))
  t.notOk(leaks.includes('file /run/a/b directory'), 'one line for a directory with all that is in it')
  t.ok(leaks.some((leak) => /^cgroup .*\/stray$/.test(leak)))
})

t.test('two nodes side by side know nothing of each other', async (t) => {
  await using one = await startNode()
  await using two = await startNode()
  const [first, second] = await Promise.all([startContainerd(one), startContainerd(two)])
  await using disposal = new AsyncDisposableStack()
  disposal.use(first)
  disposal.use(second)
  const pod = await first.cri.runPod({ name: 'only-one' }, 'runc')
  t.equal((await first.cri.pods()).length, 1)
  t.equal((await second.cri.pods()).length, 0)
  await one.run('touch', ['/etc/dirty'])
  t.equal((await two.exec('test', ['-e', '/etc/dirty'])).exitCode, 1)
  await pod.remove()
})

t.test('nothing is left', async (t) => {
  await t.test('after disposal, pods and all', async (t) => {
    const node = await startNode()
    const { cri } = await startContainerd(node)
    const pod = await cri.runPod({}, 'runc')
    await pod.run({ command: ['sleep', '1000'] })
    t.not((await processesOf(node.name)).length, 0)
    cri.close()
    await node[Symbol.asyncDispose]()
    t.strictSame(await traces(node.name), nothing)
  })

  await t.test('after a SIGKILL of its PID 1', async (t) => {
    const node = await startNode()
    const { cri } = await startContainerd(node)
    const pod = await cri.runPod({}, 'runc')
    await pod.run({ command: ['sleep', '1000'] })
    cri.close()
    const namespaces = await namespacesIn(node.name)
    const before = await traces(node.name, namespaces)
    for (const [kind, found] of Object.entries(before)) t.notSame(found, nothing[kind], `there are ${kind} before`)
    t.ok(namespaces.length > namespaceKinds.length, 'the pod has some of its own')
    process.kill(node.pid, 'SIGKILL')
    await node.ended
    t.strictSame(await traces(node.name, namespaces), nothing)
  })

  await t.test('after a SIGKILL of the process that started it, once another node starts', async (t) => {
    const script = `
      import { startContainerd } from '#test/node/containerd.ts'
      import { startNode } from '#test/node/node.ts'
      const node = await startNode()
      const { cri } = await startContainerd(node)
      const pod = await cri.runPod({}, 'runc')
      await pod.run({ command: ['sleep', '1000'] })
      console.log(node.name)`
    const starter = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [name] = await once(createInterface({ input: starter.stdout }), 'line')
    t.not((await processesOf(name)).length, 0)
    starter.kill('SIGKILL')
    await once(starter, 'exit')
    while ((await processesOf(name)).length > 0) await sleep(20)
    await collectDeadNodes()
    t.strictSame(await traces(name), nothing)
  })
})

t.test('make node-shell', async (t) => {
  const program = join(checkout, 'test/node/shell.ts')

  await t.test('is a shell with everything running, and all ends with it', async (t) => {
    const { stdout: recipe } = await execa('make', ['--no-print-directory', '--dry-run', 'node-shell'], { cwd: checkout })
    t.match(recipe, /\bnode test\/node\/shell\.ts$/)
    const commands = [
      'set -e',
      'cri run -n in-runc sleep 1000',
      'cri run -r kuasar-qemu -n in-vm sh -c "echo from the VM; sleep 1000"',
      'cri ps',
      'cri pods',
      'id=$(cri ps | grep in-vm | cut -d " " -f 1)',
      'until cri logs "$id" | grep "from the VM"; do sleep 0.2; done',
      'ls /scratch/logs',
      'echo "node $(cat /proc/sys/kernel/hostname)"',
    ]
    const { stdout, stderr, exitCode } = await execa(process.execPath, [program], { input: `${commands.join('\n')}\n`, reject: false })
    t.equal(exitCode, 0, stderr)
    t.match(stdout, /^A node with containerd and the sandboxer\./)
    t.match(stdout, /^\w+ +in-runc +RUNNING /m)
    t.match(stdout, /^\w+ +in-vm +RUNNING /m)
    t.match(stdout, /^\w+ +in-vm +READY +kuasar-qemu$/m)
    t.match(stdout, /^from the VM$/m)
    t.match(stdout, /^sandboxer\.log$/m)
    const name = /^node (.*)$/m.exec(stdout)?.[1] ?? ''
    t.match(name, /^kuasar-node-/)
    t.strictSame(await traces(name), nothing)
  })

  await t.test('has a terminal of the node’s own, and ends with its command’s status', async (t) => {
    const command = `${process.execPath} ${program} 'echo "on $(tty) of $(cat /proc/sys/kernel/hostname)"; exit 7'`
    const { stdout, exitCode } = await execa('script', ['--quiet', '--return', '--command', command, '/dev/null'], { stdin: 'ignore', reject: false })
    t.equal(exitCode, 7)
    const [, terminal, name = ''] = /on (\S+) of (\S+)/.exec(stdout) ?? []
    t.match(terminal, /^\/dev\/pts\/\d+$/)
    t.match(name, /^kuasar-node-/)
    t.strictSame(await traces(name), nothing)
  })
})
