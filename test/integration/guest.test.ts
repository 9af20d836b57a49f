/**
 * What only a real guest's kernel can show, through stock containerd's CRI: its cgroups, terminals and
 * namespaces. What a load does is in load.test.ts.
 */
import t from 'tap'
import { idle, inside, startKuasar } from '#test/support/kuasar.ts'

t.setTimeout(900_000)

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const pod = await kuasar.pod('guest')
const idler = await pod.run({ name: 'idler', ...idle })

const MiB = 1024 * 1024

t.test('exec: output, exit codes, a command that is not there', async (t) => {
  t.match(await idler.execSync(['sh', '-c', 'echo out; echo err >&2; exit 3']), { stdout: 'out\n', stderr: 'err\n', exitCode: 3 })
  await t.rejects(idler.execSync(['no-such-command']), { message: /exec: "no-such-command": executable file not found in \$PATH/ })
  await t.rejects(idler.execSync(['/etc']), { message: /exec: "\/etc": permission denied/ })
})

t.test('how many processes a user may have is the container\'s limit, and not the guest\'s size', async (t) => {
  t.match(await inside(idler, 'cat /proc/1/limits'), /Max processes +unlimited +unlimited[\s\S]*Max pending signals +unlimited +unlimited/)
})

t.test('a user other than root, without capabilities, serves port 80, as under runc', async (t) => {
  const plain = { ...idle, security: { runAsUser: { value: 1000 }, capabilities: { dropCapabilities: ['ALL'] } } }
  const server = await pod.run({ name: 'unprivileged', ...plain })
  t.equal(await inside(server, 'nc -l -p 80 -e echo served & until nc 127.0.0.1 80 2>/dev/null; do sleep 0.1; done'), 'served')
  t.equal(await inside(server, 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range'), '0\n0\t2147483647')
  await server.stop(0)
})

t.test('exec: a time limit ends it', async (t) => {
  await t.rejects(idler.execSync(['sleep', '1000'], 1), { message: /deadline|timed? ?out/i })
  t.notMatch(await inside(idler, 'ps'), /sleep 1000/)
})

t.test('a terminal: size, input, exit code', async (t) => {
  // Size and input take different ways and may overtake each other; of a terminal without a size busybox says nothing, and exits with 0.
  const script = 'read line; i=0; until [ "$(stty size 2>/dev/null)" = "31 91" ] || [ $i = 100 ]; do i=$((i+1)); sleep 0.1; done; stty size; echo "got $line"; exit 4'
  const terminal = await idler.exec(['sh', '-c', script], { stdin: true, tty: true })
  terminal.resize({ columns: 91, rows: 31 })
  terminal.write('hello\n')
  const { stdout, exitCode } = await terminal.done
  t.match(stdout, /31 91\r\ngot hello\r\n/)
  t.equal(exitCode, 4)
})

t.test('standard input of a stream, to its end', async (t) => {
  const exec = await idler.exec(['sh', '-c', 'head -c 3000000 | md5sum'], { stdin: true })
  exec.write(Buffer.alloc(3_000_000, 'x'))
  const { stdout } = await exec.done
  t.equal(stdout, await kuasar.sh('head -c 3000000 /dev/zero | tr "\\0" x | md5sum'))
})

t.test('stats come from the guest\'s cgroup', async (t) => {
  const { memory, cpu } = await idler.stats()
  t.ok(Number(memory?.usageBytes?.value) > 0)
  t.ok(Number(cpu?.usageCoreNanoSeconds?.value) > 0)
})

t.test('limits are the container\'s own, and can be changed', async (t) => {
  const limited = await pod.run({ name: 'limited', ...idle, resources: { memoryLimitInBytes: 48 * MiB, cpuQuota: 50_000, cpuPeriod: 100_000 } })
  t.equal(await inside(limited, 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max'), `${48 * MiB}\n50000 100000`)
  await limited.update({ memoryLimitInBytes: 64 * MiB, cpuQuota: 80_000, cpuPeriod: 100_000 })
  t.equal(await inside(limited, 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max'), `${64 * MiB}\n80000 100000`)
  await limited.stop(0)
})

t.test('memory beyond the limit: OOMKilled, whoever was struck', async (t) => {
  const resources = { memoryLimitInBytes: 24 * MiB }
  const itself = await pod.run({ name: 'greedy', command: ['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=100M', 'count=1'], resources })
  t.match(await itself.exited(), { exitCode: 137, reason: 'OOMKilled' })
  const child = await pod.run({ name: 'greedy-child', command: ['sh', '-c', 'dd if=/dev/zero of=/dev/null bs=100M count=1; exit 6'], resources })
  t.match(await child.exited(), { exitCode: 6, reason: 'OOMKilled' })
  t.match(await idler.status(), { state: 'CONTAINER_RUNNING' })
})

t.test('a container without a limit that eats all memory: OOMKilled, and the guest itself was hardly short of any', async (t) => {
  /** How often pages were taken back from the whole guest, and not from a cgroup at its limit. Source: mm/vmscan.c. */
  const pressed = async () => (await inside(idler, 'grep -E "^(allocstall_|pgsteal_kswapd )" /proc/vmstat')).split('\n').reduce((sum, line) => sum + Number(line.split(' ')[1]), 0)
  const before = await pressed()
  const memory = 'sed -n "s/^MemTotal: *\\([0-9]*\\) kB$/\\1k/p" /proc/meminfo'
  const glutton = await pod.run({ name: 'glutton', command: ['sh', '-c', `exec dd if=/dev/zero of=/dev/null count=1 bs=$(${memory})`] })
  t.match(await glutton.exited(), { exitCode: 137, reason: 'OOMKilled' })
  // Without a bound some 10 000.
  const times = await pressed() - before
  t.ok(times < 1000, `${times} times`)
  t.match(await idler.status(), { state: 'CONTAINER_RUNNING' })
})

t.test('PID namespaces: private, of the pod, of another container', async (t) => {
  t.match(await inside(idler, 'tr "\\0" " " </proc/1/cmdline'), /^sh -c trap/, 'private: its own init is process 1')
  const debug = await pod.run({ name: 'debug', ...idle, security: { namespaceOptions: { pid: 'TARGET', targetId: idler.id } } })
  t.equal(await inside(debug, 'readlink /proc/1/ns/pid'), await inside(idler, 'readlink /proc/1/ns/pid'))
  await debug.stop(0)
  const shared = await kuasar.containerd.cri.runPod({ name: 'shared', linux: { securityContext: { namespaceOptions: { pid: 'POD' } } } }, 'kuasar-qemu')
  const pids = { namespaceOptions: { pid: 'POD' } } as const
  const one = await shared.run({ name: 'one', command: ['sleep', '1111'], security: pids })
  const two = await shared.run({ name: 'two', ...idle, security: pids })
  t.match(await inside(two, 'ps'), /init pause|pause[\s\S]*sleep 1111/)
  await one.stop(0)
  t.match(await one.status(), { state: 'CONTAINER_EXITED', exitCode: 137 })
  await shared.remove()
})

t.test('containers of a pod share its IPC, UTS and network namespaces; processes and mounts are their own', async (t) => {
  const neighbour = await pod.run({ name: 'neighbour', ...idle })
  const kinds = ['ipc', 'uts', 'net', 'pid', 'mnt', 'cgroup'] as const
  const namespaces = async (container: typeof idler) => {
    const links = (await inside(container, `cd /proc/self/ns; for kind in ${kinds.join(' ')}; do readlink $kind; done`)).split('\n')
    t.match(links, kinds.map((kind) => new RegExp(`^${kind}:\\[\\d+\\]$`)))
    return links
  }
  const [one, other] = [await namespaces(idler), await namespaces(neighbour)]
  t.strictSame(kinds.filter((_, index) => one[index] === other[index]), ['ipc', 'uts', 'net'])
  await neighbour.stop(0)
})

t.test('a graceful stop gets its exit code; the last words are kept', async (t) => {
  const polite = await pod.run({ name: 'polite', command: ['sh', '-c', 'trap "echo bye; exit 9" TERM; echo up; while :; do sleep 0.1; done'] })
  await polite.outputMatching(/up/)
  await polite.stop(30)
  t.match(await polite.status(), { exitCode: 9 })
  t.match(await polite.output(), /bye/)
})

t.test('the pod leaves nothing', async (t) => {
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})
