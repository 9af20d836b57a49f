/** What the agent makes of its pod's configuration, and what it says when it cannot. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { AGENT_SNAPSHOT } from '../../image/agent.ts'
import { imagePaths } from '../../image/paths.ts'
import { runTool } from '../../image/toolchain.ts'
import { AgentNode, missingForAgent } from '#test/support/agent-node.ts'

const missing = missingForAgent()
if (missing !== undefined) t.bailout(`this machine lacks ${missing}`)

t.setTimeout(120_000)

/** A /proc/sys of the test's own: the machine's is not for trying things out. */
const sysctl = mkdtempSync(join(tmpdir(), 'kuasar-sysctl-'))
mkdirSync(join(sysctl, 'net/core'), { recursive: true })
writeFileSync(join(sysctl, 'net/core/somaxconn'), '128\n')
t.teardown(() => rmSync(sysctl, { recursive: true }))

t.test('host name, kernel parameters, files and shared memory of the pod', async (t) => {
  await using node = await AgentNode.start({ paths: { sysctl } }, {
    hostname: 'web-0',
    dns: { servers: ['10.96.0.10'], searches: ['default.svc'], options: ['ndots:5'] },
    sysctls: { 'net.core.somaxconn': '4096' },
    shmBytes: 8 * 1024 * 1024,
    hostsLines: ['10.244.0.7\tweb-0.example web-0'],
    logLevel: 'debug',
  })
  t.equal(readFileSync(join(sysctl, 'net/core/somaxconn'), 'utf8'), '4096')
  using client = await node.container('c', {
    args: ['/bin/sh', '-c', 'hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; mount | cat; touch /etc/hosts && echo written; cat /proc/self/oom_score_adj'],
    readonlyRoot: true,
  })
  const { stdout, stderr } = await client.create()
  await client.start()
  const text = (await stdout?.text()) ?? ''
  t.match(text, /^web-0\nweb-0\n127\.0\.0\.1\tlocalhost\n[^]*10\.244\.0\.7\tweb-0\.example web-0\nsearch default\.svc\nnameserver 10\.96\.0\.10\noptions ndots:5\n/)
  t.match(text, / on \/dev\/shm type tmpfs \(.*nosuid,nodev,noexec.*size=8192k/)
  t.match(await stderr?.text(), /read-only/i, 'with a read-only root the files are read-only, too')
  t.match(text, /\n500\n$/, 'the agent\'s own protection from the OOM killer is not handed on')
  await client.wait()
  await client.delete()
  t.match(node.console, /debug: container created/, 'the log level is the sandboxer\'s')
})

t.test('a parameter that cannot be set ends the agent, which says which', async (t) => {
  await t.rejects(AgentNode.start({ paths: { sysctl } }, { sysctls: { 'net.no.such': '1' } }), {
    message: /sysctl net\.no\.such = "1" of the pod cannot be set: the guest's kernel has no .*net\/no\/such[^]*exited with status 1; powering off/,
  })
})

t.test('the containers together are bounded by what is free, and never below the pod\'s limit', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'kuasar-memory-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const meminfo = join(dir, 'meminfo')
  const MiB = 1024 * 1024
  /** What the pod's cgroup is given in a guest with so much free and to be had. */
  const bound = async (freeMiB: number, availableMiB: number, memoryLimitBytes: number) => {
    writeFileSync(meminfo, `MemTotal:  9000000 kB\nMemFree:   ${freeMiB * 1024} kB\nMemAvailable:  ${availableMiB * 1024} kB\n`)
    await using _node = await AgentNode.start({ paths: { meminfo, cgroupRoot: dir, podCgroup: '/pod' } }, { memoryLimitBytes })
    return Number(readFileSync(join(dir, 'pod/memory.max'), 'latin1')) / MiB
  }
  t.equal(await bound(369, 414, 0), 353, 'no limit')
  t.equal(await bound(369, 414, 64 * MiB), 353, 'a limit of less: others may have none')
  t.equal(await bound(1022, 1068, 1024 * MiB), 1024, 'a limit that a large VM has no room beside')
  t.equal(await bound(10, 60, 0), 30, 'next to nothing free')
})

t.test('the containers together have the pod\'s limit of processes, where it has one', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'kuasar-pids-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const paths = { cgroupRoot: dir, podCgroup: '/pod' }
  {
    await using _node = await AgentNode.start({ paths })
    t.notOk(existsSync(join(dir, 'pod')), 'no limit')
  }
  await using _node = await AgentNode.start({ paths }, { pidsLimit: 64 })
  t.equal(readFileSync(join(dir, 'pod/pids.max'), 'latin1'), '64')
})

t.test('a storage that cannot be mounted ends the agent, which says which', async (t) => {
  await t.rejects(AgentNode.start({}, { storages: [{ type: 'tmpfs', source: 'tmpfs', target: '/outside', options: [] }] }), {
    message: /storage tmpfs tmpfs on \/outside: expected a plain path below/,
  })
})

t.test('a sandboxer of another protocol version is told so', async (t) => {
  await t.rejects(AgentNode.start({}, { protocolVersion: 9 }), { message: /speaks version 9 of the guest link, the agent 1; install matching versions/ })
})

/**
 * V8 compiles regular expressions at their first use and modules that are not in the snapshot at theirs, and of an emulated start each
 * costs some percent. So the image's own agent is started here, by its snapshot, and V8 asked what it did.
 */
t.test('from its snapshot it is ready without compiling anything', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'kuasar-snapshot-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const root = join(dir, 'root')
  await runTool(['fsck.erofs', `--extract=${root}`, imagePaths().rootfs], [dir])
  const [meminfo, v8Log] = [join(dir, 'meminfo'), join(dir, 'v8.log')]
  writeFileSync(meminfo, 'MemTotal: 500000 kB\nMemFree: 400000 kB\nMemAvailable: 400000 kB\n')
  const command = [
    join(root, 'usr/bin/node'), '--snapshot-blob', join(root, AGENT_SNAPSHOT), '--no-sparkplug', '--no-maglev',
    '--log-function-events', '--log-code', '--no-regexp-tier-up', `--logfile=${v8Log}`, '--no-logfile-per-isolate',
  ]
  await using node = await AgentNode.start(
    { paths: { sysctl, meminfo, cgroupRoot: dir, podCgroup: '/pod' } },
    { sysctls: { 'net.core.somaxconn': '4096' }, dns: { servers: ['10.96.0.10'], searches: [], options: [] } },
    command,
  )
  // V8 writes by the block: what comes after pushes out what was before.
  using client = await node.container('c', { args: ['true'] })
  await client.create().catch(() => {})
  const lines = readFileSync(v8Log, 'latin1').split('\n').map((line) => line.split(','))
  const ready = lines.findIndex(([event, kind, ...rest]) => event === 'function' && kind === 'first-execution' && rest.at(-1) === 'ready')
  t.ok(ready > 0, 'the log holds the moment it was ready')
  const start = lines.slice(0, ready)
  const first = start.filter(([event, kind]) => event === 'function' && kind === 'first-execution').map((fields) => fields.at(-1))
  t.ok(first.includes('applyPod') && first.includes('kilobytesOf'), 'and what it did before')
  const scripts = new Map(start.flatMap(([event, id = '', name = '']) => (event === 'script-details' ? [[id, name]] : [])))
  const compiled = start.filter(([event, kind = '']) => event === 'function' && /^(full-)?parse|^interpreter/.test(kind)).map(([, , id = '']) => scripts.get(id) ?? id)
  // A listener on a path, which a guest has not, is made by way of these.
  t.strictSame([...new Set(compiled)].filter((name) => !/^node:(internal\/)?cluster/.test(name)), [], 'scripts')
  t.strictSame(start.filter(([event, kind]) => event === 'code-creation' && kind === 'RegExp').map((fields) => fields.slice(6).join(',')), [], 'regular expressions')
})
