/** The pure parts of the agent's containers: states, specs, stdio, turns, exits. */
import t from 'tap'
import { allowed, assertAllowed, type Operation, type ProcessState, type StateKind, statusOf } from '#guest/container/state.ts'
import { parseProcess, parseResources, parseSpec, type OciSpec } from '#guest/container/oci.ts'
import { finalProcess, finalResources, finalSpec, type SpecContext } from '#guest/container/spec.ts'
import { planStdio } from '#guest/container/stdio.ts'
import { Turns, TURNS_WAITING_MAX } from '#guest/container/turns.ts'
import { EXIT_RECORD_BYTES, ExitParser, exitStatus, Reaper, UNCLAIMED_EXITS_MAX } from '#guest/reaper.ts'
import { random } from '#test/support/random.ts'

const exit = { status: 3, atNanos: 5n }

const states: Record<StateKind, ProcessState> = {
  created: { kind: 'created', pid: 7 },
  running: { kind: 'running', pid: 7 },
  paused: { kind: 'paused', pid: 7 },
  draining: { kind: 'draining', pid: 7, exit },
  stopped: { kind: 'stopped', pid: 7, exit },
  deleted: { kind: 'deleted', pid: 7, exit },
}

t.test('what is refused, with the code containerd expects', async (t) => {
  const codes = (operation: Operation) =>
    Object.values(states).map((state) => {
      try {
        assertAllowed(state, operation, 'it')
        return 'ok'
      } catch (error) {
        return error instanceof Error && 'code' in error ? error.code : error
      }
    })
  t.strictSame(codes('kill'), ['ok', 'ok', 'ok', 'NOT_FOUND', 'NOT_FOUND', 'NOT_FOUND'])
  t.strictSame(codes('delete'), ['ok', 'FAILED_PRECONDITION', 'FAILED_PRECONDITION', 'ok', 'ok', 'NOT_FOUND'])
  t.strictSame(codes('start'), ['ok', ...Array.from({ length: 4 }, () => 'FAILED_PRECONDITION'), 'NOT_FOUND'])
  const alive = (operation: Operation) => codes(operation).map((code) => code === 'ok')
  t.strictSame(alive('exec'), [true, true, false, false, false, false])
  t.strictSame(alive('pause'), [false, true, false, false, false, false])
  t.strictSame(alive('resume'), [false, false, true, false, false, false])
  for (const operation of ['update', 'resize'] as const) t.strictSame(alive(operation), [true, true, true, false, false, false])
  t.strictSame(Object.keys(allowed), Object.keys(states))
  t.equal(statusOf.draining, 'running', 'until its output is read, a process runs as far as containerd is concerned')
})

const context: SpecContext = {
  cgroupsPath: '/pod/c', terminal: true, pidNamespace: undefined, hosts: '/r/hosts', hostname: '/r/hostname', resolvConf: '/r/resolv.conf', shm: '/r/shm',
  hugepageSizes: ['2MB'],
}

const spec: OciSpec = {
  ociVersion: '1.2.1',
  root: { path: '/run/kuasar/roots/c/rootfs', readonly: true },
  hostname: 'x',
  annotations: { 'io.kubernetes.cri.container-type': 'container', 'io.kuasar.test': 'passed through' },
  hooks: { prestart: [{ path: '/host/hook' }] },
  process: { args: ['a'], cwd: '/', apparmorProfile: 'p', selinuxLabel: 'l', user: { uid: 1 } },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/dev/shm', type: 'tmpfs', source: 'shm' },
    { destination: '/etc/hosts/', type: 'bind', source: '/run/kuasar/shared/c/hosts' },
  ],
  linux: {
    cgroupsPath: '/kubepods/x',
    sysctl: { 'net.core.somaxconn': '1' },
    intelRdt: {},
    namespaces: [
      { type: 'network', path: '/proc/0/ns/net' }, { type: 'ipc', path: '/proc/0/ns/ipc' }, { type: 'uts', path: '/proc/0/ns/uts' },
      { type: 'pid' }, { type: 'mount' },
    ],
    resources: { cpu: { shares: 2, cpus: '0-3', mems: '0' }, memory: { limit: 5, swappiness: 1, kernel: 1 }, blockIO: { weight: 3 } },
    seccomp: { defaultAction: 'SCMP_ACT_ALLOW' },
  },
}

t.test('the final spec: the VM\'s own namespaces, cgroup, files', async (t) => {
  const final = finalSpec(spec, context)
  t.equal(final.ociVersion, '1.0.2')
  t.notOk('hooks' in final || 'hostname' in final)
  t.strictSame(final.linux?.namespaces, [{ type: 'mount' }, { type: 'cgroup' }, { type: 'pid' }])
  t.strictSame(final.annotations, spec.annotations)
  t.equal(final.linux?.cgroupsPath, '/pod/c')
  t.strictSame(Object.keys(final.linux ?? {}).toSorted(), ['cgroupsPath', 'namespaces', 'resources', 'seccomp'])
  t.strictSame(final.linux?.resources, { cpu: { shares: 2 }, memory: { limit: 5 } })
  t.strictSame(final.process, { args: ['a'], cwd: '/', user: { uid: 1 }, oomScoreAdj: 0, terminal: true })
  t.strictSame(final.mounts?.map(({ destination, source }) => [destination, source]), [
    ['/proc', 'proc'],
    ['/etc/hosts/', '/run/kuasar/shared/c/hosts'],
    ['/etc/hostname', '/r/hostname'],
    ['/etc/resolv.conf', '/r/resolv.conf'],
    ['/dev/shm', '/r/shm'],
  ])
  t.ok(final.mounts?.find(({ destination }) => destination === '/etc/hostname')?.options?.includes('ro'), 'a read-only root has read-only files')
  t.ok(finalSpec({ ...spec, root: { path: '/r' } }, context).mounts?.at(2)?.options?.includes('rw'))
})

t.test('a volume at /dev/shm is the container\'s own', async (t) => {
  const own = { destination: '/dev/shm', type: 'bind', source: '/run/kuasar/storages/pod/shm' }
  const final = finalSpec({ ...spec, mounts: [own] }, context)
  t.strictSame(final.mounts?.filter(({ destination }) => destination === '/dev/shm'), [own])
})

t.test('joined PID namespaces; refused user namespaces; a missing root', async (t) => {
  const below = { ...spec, mounts: [{ destination: '/dev', type: 'tmpfs' }, { destination: '/dev/shm/data', type: 'bind', source: '/d' }, { destination: '/x', type: 'tmpfs' }] }
  const order = finalSpec(below, context).mounts?.map(({ destination }) => destination)
  t.strictSame(order, ['/dev', '/dev/shm', '/dev/shm/data', '/x', '/etc/hosts', '/etc/hostname', '/etc/resolv.conf'], 'a volume below the pod\'s own mount is not covered by it')
  t.equal(finalSpec({ ...spec, process: { args: ['a'] } }, context).process?.oomScoreAdj, 0, 'not the agent\'s, which is spared')
  t.equal(finalSpec({ ...spec, process: { args: ['a'], oomScoreAdj: 985 } }, context).process?.oomScoreAdj, 985)
  t.strictSame(finalSpec(spec, { ...context, pidNamespace: '/proc/9/ns/pid' }).linux?.namespaces?.at(2), { type: 'pid', path: '/proc/9/ns/pid' })
  t.throws(() => finalSpec({ ...spec, linux: { namespaces: [{ type: 'user' }] } }, context), { code: 'UNIMPLEMENTED', message: /user namespaces/ })
  t.throws(() => finalSpec({ process: { args: ['a'] } }, context), { code: 'INVALID_ARGUMENT', message: /root\.path/ })
  t.throws(() => finalSpec({ root: { path: 'rootfs' } }, context), { code: 'INVALID_ARGUMENT' })
})

t.test('resources the guest cannot honour are left out', async (t) => {
  t.strictSame(finalResources({ cpu: { cpus: '0' }, memory: { swappiness: 3 }, pids: { limit: 9 } }, []), { pids: { limit: 9 } })
  const hugepageLimits = [{ pageSize: '2MB', limit: 1 }, { pageSize: '1GB', limit: 2 }]
  t.strictSame(finalResources({ hugepageLimits }, ['2MB']), { hugepageLimits: [hugepageLimits[0]] })
})

t.test('specs of the wrong shape name the field', async (t) => {
  const refused = (value: unknown, message: RegExp) =>
    t.throws(() => parseSpec(Buffer.from(JSON.stringify(value)), 'spec'), { code: 'INVALID_ARGUMENT', message })
  refused([], /JSON object/)
  refused({ mounts: {} }, /mounts to be of type array/)
  refused({ mounts: [1] }, /mounts\[\]\.destination/)
  refused({ linux: { namespaces: ['pid'] } }, /linux\.namespaces\[\]\.type/)
  refused({ root: { path: 5 } }, /root\.path to be of type string/)
  refused({ process: 'x' }, /process to be of type object/)
  refused({ process: { args: ['a', 1] } }, /process\.args\[\] to be of type string/)
  t.throws(() => parseSpec(Buffer.from('{'), 'spec'), { code: 'INVALID_ARGUMENT' })
  t.throws(() => parseProcess(Buffer.from('{"args":[]}'), 'exec'), { code: 'INVALID_ARGUMENT', message: /args/ })
  t.throws(() => parseProcess(Buffer.from('{"args":[1]}'), 'exec'), { code: 'INVALID_ARGUMENT', message: /args/ })
  t.throws(() => parseResources(Buffer.from('null'), 'update'), { code: 'INVALID_ARGUMENT' })
})

t.test('any JSON gives a final spec or an INVALID_ARGUMENT, never another failure', async (t) => {
  const next = random(7)
  const value = (depth: number): unknown => {
    const kind = next() % (depth > 3 ? 4 : 7)
    if (kind === 0) return null
    if (kind === 1) return next() % 2 === 0
    if (kind === 2) return next()
    if (kind === 3) return ['/dev/shm', 'shm', 'tmpfs', '/r', 'pid', 'mount'][next() % 6]
    if (kind === 4) return Array.from({ length: next() % 4 }, () => value(depth + 1))
    const keys = ['root', 'path', 'process', 'args', 'linux', 'namespaces', 'type', 'mounts', 'destination', 'source', 'resources', 'cpu', 'memory', 'hugepageLimits', 'readonly']
    return Object.fromEntries(Array.from({ length: next() % 6 }, () => [keys[next() % keys.length], value(depth + 1)]))
  }
  let accepted = 0
  for (let round = 0; round < 20_000; round++) {
    const text = JSON.stringify({ root: { path: '/r' }, ...Object(value(0)) })
    try {
      finalSpec(parseSpec(Buffer.from(text), 'spec'), context)
      accepted++
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && (error.code === 'INVALID_ARGUMENT' || error.code === 'UNIMPLEMENTED'))) t.fail(text, { error })
    }
  }
  t.ok(accepted > 0)
})

t.test('a process loses only what the guest does not know', async (t) => {
  t.strictSame(finalProcess({ args: ['a'], apparmorProfile: 'x', env: ['A=1'] }), { args: ['a'], env: ['A=1'] })
})

const address = (name: string) => `ttrpc+hvsock:///run/kuasar/s/vsock:1024?streaming_id=abc-${name}`

t.test('stdio: stream addresses, nothing, or a clear refusal', async (t) => {
  const stdio = { stdin: '', stdout: address('stdout'), stderr: address('stderr'), terminal: false }
  t.strictSame(planStdio(stdio, 'it'), { stdin: undefined, stdout: 'abc-stdout', stderr: 'abc-stderr', terminal: false })
  t.equal(planStdio({ ...stdio, terminal: true }, 'it').stderr, undefined, 'a terminal has one stream')
  const fifo = { ...stdio, stdout: '/run/containerd/io.containerd.grpc.v1.cri/containers/x/io/1/x-stdout' }
  t.throws(() => planStdio(fifo, 'it'), { code: 'INVALID_ARGUMENT', message: /io_type = "streaming"/ })
  for (const stdout of ['binary:///bin/logger', 'file:///x', 'ttrpc+unix:///x', 'ttrpc+unix:///x?streaming_id=', `ttrpc+unix:///x?streaming_id=${'a'.repeat(300)}`]) {
    t.throws(() => planStdio({ ...stdio, stdout }, 'it'), { code: 'INVALID_ARGUMENT' }, stdout.slice(0, 50))
  }
})

t.test('turns: in order, failures apart, within a limit', async (t) => {
  const turns = new Turns('it')
  const order: number[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  const first = turns.run(async () => {
    await promise
    order.push(1)
    throw new Error('first')
  })
  const second = turns.run(async () => order.push(2))
  first.catch(() => {})
  resolve()
  await t.rejects(first, { message: 'first' })
  await second
  t.strictSame(order, [1, 2])
  const block = Promise.withResolvers<void>()
  const waiting = Array.from({ length: TURNS_WAITING_MAX }, () => turns.run(() => block.promise))
  await t.rejects(turns.run(async () => {}), { code: 'RESOURCE_EXHAUSTED' })
  const reported = turns.runAlways(async () => 'the kernel is heard all the same')
  block.resolve()
  await Promise.all(waiting)
  t.equal(await reported, 'the kernel is heard all the same')
})

function record(pid: number, status: number, boot: bigint): Buffer {
  const bytes = Buffer.alloc(EXIT_RECORD_BYTES)
  bytes.writeUInt32LE(pid, 0)
  bytes.writeUInt32LE(status, 4)
  bytes.writeBigUInt64LE(1000n + boot, 8)
  bytes.writeBigUInt64LE(boot, 16)
  return bytes
}

t.test('exit records, wherever the pipe cuts them', async (t) => {
  const bytes = Buffer.concat([record(10, 3 << 8, 1n), record(11, 9, 2n), record(12, 0x86, 3n)])
  for (let cut = 0; cut <= bytes.length; cut++) {
    const parser = new ExitParser()
    const records = [...parser.push(bytes.subarray(0, cut)), ...parser.push(bytes.subarray(cut))]
    if (records.length !== 3 || records[2]?.pid !== 12) t.fail(`cut at ${cut}`)
  }
  const statuses = new ExitParser().push(bytes).map(({ waitStatus }) => exitStatus(waitStatus))
  t.strictSame(statuses, [3, 137, 134], 'code, signal, signal with a core dump')
})

t.test('exits before their claim, after it, and of an earlier holder of the pid', async (t) => {
  const reaper = new Reaper()
  const deliver = (pid: number, status: number, bootTimeNanos: bigint) =>
    reaper.deliver({ pid, waitStatus: status << 8, realtimeNanos: 77n, bootTimeNanos })
  deliver(5, 1, 100n)
  t.strictSame(await reaper.claim(5, 50n), { status: 1, atNanos: 77n }, 'claimed after it came')
  const late = reaper.claim(6, 200n)
  deliver(6, 2, 300n)
  t.equal((await late).status, 2)
  deliver(6, 8, 400n)
  t.equal((await reaper.claim(6, 350n)).status, 8, 'the pid given again, and its process gone before its claim')
  deliver(7, 9, 100n)
  const reused = reaper.claim(7, 200n)
  t.equal(reaper.unclaimed, 0, 'the exit of an earlier process is no answer')
  deliver(7, 4, 250n)
  t.equal((await reused).status, 4)
  const waiting = reaper.claim(8, 500n)
  deliver(8, 1, 400n)
  deliver(8, 6, 600n)
  t.equal((await waiting).status, 6)
  for (let pid = 1000; pid < 1000 + UNCLAIMED_EXITS_MAX + 10; pid++) deliver(pid, 0, 1000n)
  t.equal(reaper.unclaimed, UNCLAIMED_EXITS_MAX)
  t.ok(reaper.dropped >= 10)
})
