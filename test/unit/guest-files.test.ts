/** What the agent reads and writes as text: cgroup files, crun's log, pod files, settings, marks. Contents are recorded by us. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { BootMarks, parseBootMarks } from '#guest/boot-marks.ts'
import { CONFIG_ENV, configFrom, defaultConfig } from '#guest/config.ts'
import { parseEndpoint, writeBytesMax } from '#guest/link/endpoint.ts'
import { formatFields } from '#guest/link/log-line.ts'
import { hostsFile, resolvConf, sysctlPath } from '#guest/pod-files.ts'
import { metricFiles, metricsOf, parseKeyed } from '#guest/runtime/cgroup-files.ts'
import { type Failure, lastError, runtimeFailure } from '#guest/runtime/failure.ts'
import { timestamp } from '#guest/services/timestamp.ts'
import { AGENT_VERSION } from '#guest/version.ts'
import { random } from '#test/support/random.ts'

t.test('the agent has the version of the package', async (t) => {
  const { version }: { version: string } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  t.equal(AGENT_VERSION, version)
})

t.test('cgroup files become metrics', async (t) => {
  const files = new Map(Object.entries({
    'pids.current': '3\n',
    'pids.max': 'max\n',
    'cpu.stat': 'usage_usec 600020\nuser_usec 400000\nsystem_usec 200020\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n',
    'cpu.pressure': 'some avg10=0.12 avg60=0.05 avg300=0.01 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n',
    'memory.current': '1884160\n',
    'memory.max': '33554432\n',
    'memory.peak': '2000000\n',
    'memory.stat': 'anon 49152\nfile 1000\nkernel_stack 16384\nworkingset_refault_anon 2\nworkingset_refault_file 5\npgfault 1063\nunknown_line 9\n',
    'memory.events': 'low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n',
    'io.stat': '254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n\n',
    'hugetlb.2MB.current': '0\n',
    'hugetlb.2MB.max': 'max\n',
  }))
  const metrics = metricsOf(files)
  t.strictSame(metrics.pids, { current: '3', limit: '18446744073709551615' })
  t.match(metrics.cpu, { usageUsec: '600020', nrThrottled: '0' })
  t.strictSame(metrics.cpuPressure?.some, { avg10: 0.12, avg60: 0.05, avg300: 0.01, total: '12345' })
  t.match(metrics.memory, {
    anon: '49152', kernelStack: '16384', usage: '1884160', usageLimit: '33554432', maxUsage: '2000000', workingsetRefault: '7', pgfault: '1063',
  })
  t.notOk('unknownLine' in (metrics.memory ?? {}))
  t.equal(metrics.memoryEvents?.oomKill, '1')
  t.strictSame(metrics.io, [{ major: '254', minor: '0', rbytes: '4096', wbytes: '8192', rios: '1', wios: '2' }])
  t.strictSame(metrics.hugetlb, [{ pagesize: '2MB', current: '0', max: '18446744073709551615' }])
  t.strictSame(metricsOf(new Map()), { hugetlb: [] }, 'a cgroup without controllers has no parts')
})

t.test('cgroup files of any content are parsed without a failure', async (t) => {
  const next = random(3)
  const words = ['max', '0', '18446744073709551616', '-1', ' ', '\n', 'anon', 'some', 'avg10=', 'total=x', '8:0', '8:', ':', 'rbytes=9', '\u0000', 'oom_kill']
  for (let round = 0; round < 5000; round++) {
    const text = () => Array.from({ length: next() % 12 }, () => words[next() % words.length]).join(next() % 2 === 0 ? ' ' : '')
    const metrics = metricsOf(new Map([...metricFiles, 'hugetlb.2MB.current'].map((name) => [name, text()])))
    for (const value of Object.values({ ...metrics.memory, ...metrics.cpu })) if (!/^\d+$/.test(value)) t.fail(value)
  }
  t.equal(parseKeyed('a 1\nb x\nc\n\n').size, 1)
})

const failure: Failure = { operation: 'exec in container', containerId: 'c', command: 'foo', exitCode: 1, signal: undefined, log: '' }
const logged = (msg: string) => `${JSON.stringify({ msg, level: 'error', time: '2026-11-22T03:29:57.927807Z' })}\n`

t.test('crun\'s words become errors with a code', async (t) => {
  const cases = [
    ['executable file `foo` not found in $PATH: No such file or directory', 'INVALID_ARGUMENT', /exec: "foo": executable file not found in \$PATH/],
    ['open executable: Operation not permitted', 'PERMISSION_DENIED', /exec: "foo": permission denied/],
    ['open executable: Permission denied', 'PERMISSION_DENIED', /permission denied/],
    ['chdir `/nodir`: No such file or directory', 'INVALID_ARGUMENT', /chdir/],
    ['chdir `/etc/passwd/below`: Not a directory', 'INVALID_ARGUMENT', /below/],
    ['mkdir `/etc/passwd/x`: Not a directory', 'INVALID_ARGUMENT', /mkdir/],
    ['mount `/etc/hostname` to `etc`: Not a directory', 'INVALID_ARGUMENT', /mount/],
    ['error opening file `/run/kuasar/crun/x1/status`: No such file or directory', 'NOT_FOUND', /status/],
    ['the container `x1` is not running', 'FAILED_PRECONDITION', /not running/],
    ['container `x1` already exists', 'ALREADY_EXISTS', /exists/],
    ['unknown version specified', 'INVALID_ARGUMENT', /version/],
    ['write to `/sys/fs/cgroup/pod/x/memory.max`: Device or resource busy', 'INTERNAL', /memory\.max/],
  ] as const
  for (const [said, code, message] of cases) {
    const error = runtimeFailure({ ...failure, log: logged(said) })
    t.equal(error.code, code, said)
    t.match(error.message, message)
    t.match(error.message, /^exec in container c failed: /)
  }
})

t.test('the last error of a log; without a log, how crun ended', async (t) => {
  t.equal(lastError(`${logged('first')}${JSON.stringify({ msg: 'a warning', level: 'warning' })}\n`), 'first')
  t.equal(lastError('not json\n'), 'not json')
  t.equal(lastError(logged('evil\u001b[2J\nline')), 'evil [2J line')
  t.ok(lastError(logged('x'.repeat(100_000))).length <= 2000)
  t.match(runtimeFailure({ ...failure, exitCode: 9 }).message, /exited with status 9 and said nothing/)
  t.match(runtimeFailure({ ...failure, exitCode: undefined, signal: 'SIGKILL' }).message, /ended by SIGKILL/)
})

t.test('pod files', async (t) => {
  t.equal(hostsFile('pod', []), '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tpod\n')
  t.match(hostsFile('pod', ['10.0.0.7\tpod']), /\n10\.0\.0\.7\tpod\n$/)
  t.notMatch(hostsFile('pod', ['10.0.0.7\tpod']), /127\.0\.1\.1/)
  t.equal(resolvConf({ servers: ['10.0.0.10'], searches: ['a', 'b'], options: ['ndots:5'] }), 'search a b\nnameserver 10.0.0.10\noptions ndots:5\n')
  t.equal(resolvConf({ servers: [], searches: [], options: [] }), '')
})

t.test('kernel parameters by their names', async (t) => {
  t.equal(sysctlPath('/proc/sys', 'net.core.somaxconn'), '/proc/sys/net/core/somaxconn')
  t.equal(sysctlPath('/proc/sys', 'net/ipv4/conf/eth0.1/forwarding'), '/proc/sys/net/ipv4/conf/eth0.1/forwarding')
  t.equal(sysctlPath('/proc/sys', 'net.ipv4.conf.eth0/1.forwarding'), '/proc/sys/net/ipv4/conf/eth0.1/forwarding')
  for (const name of ['', 'x', 'a..b', '../../etc/passwd', 'net/../../../etc/passwd', 'a.//', '/a', 'kernel.']) {
    t.throws(() => sysctlPath('/proc/sys', name), { code: 'INVALID_ARGUMENT' }, JSON.stringify(name))
  }
})

t.test('settings: defaults, changes, and what is wrong with others', async (t) => {
  t.equal(configFrom({}), defaultConfig)
  const changed = configFrom({ [CONFIG_ENV]: '{"logLevel":"debug","paths":{"run":"/tmp/x"},"exitsFd":9}' })
  t.match(changed, { logLevel: 'debug', exitsFd: 9, paths: { run: '/tmp/x', crun: '/usr/bin/crun' } })
  const refused = (text: string, message: RegExp) => t.throws(() => configFrom({ [CONFIG_ENV]: text }), { code: 'INVALID_ARGUMENT', message })
  refused('{"loglevel":"debug"}', /loglevel.*expected one of/)
  refused('{"paths":{"run":5}}', /paths\.run = 5: expected a value like/)
  refused('{"endpoints":{"x":""}}', /endpoints\.x/)
})

t.test('endpoints', async (t) => {
  t.strictSame(parseEndpoint('vsock:1024'), { kind: 'vsock', port: 1024 })
  t.strictSame(parseEndpoint('unix:/run/x'), { kind: 'unix', path: '/run/x' })
  for (const text of ['', 'vsock:', 'vsock:x', 'unix:x', 'tcp:1', '1024']) t.throws(() => parseEndpoint(text), { code: 'INVALID_ARGUMENT' })
  t.equal(writeBytesMax({ kind: 'vsock', port: 1 }), 16_384)
})

t.test('boot marks', async (t) => {
  t.strictSame(parseBootMarks('init:12,switch-root:345'), [{ name: 'init', bootTimeNanos: 12n }, { name: 'switch-root', bootTimeNanos: 345n }])
  t.strictSame(parseBootMarks('init:x,:5,a:1:2,b'), [])
  const marks = new BootMarks({ KUASAR_BOOT_MARKS: 'init:1' }, () => 9n)
  marks.mark('agent-main')
  t.strictSame(marks.all().map(({ name }) => name), ['init', 'agent-main'])
})

t.test('log fields on a console line', async (t) => {
  t.equal(formatFields({}), '')
  t.equal(formatFields({ a: 1, error: new Error('x', { cause: new Error('y') }), text: 'b\u001b[0m\nc' }), ' (a=1 error=x: y text=b [0m c)')
})

t.test('timestamps', async (t) => {
  t.strictSame(timestamp(1_795_321_273_389_051_063n), { seconds: 1_795_321_273, nanos: 389_051_063 })
})
