/** Processes of a sandbox that a signal has stopped: which are looked at, and what follows. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import { silentLog } from '#shared/log.ts'
import { findHeld, frozenReason, type NamedProcess, processesOf } from '#host/sandbox/held.ts'
import type { OwnedProcess } from '#host/sandbox/ownership.ts'
import { childrenOf, processStatNow } from '#host/sandbox/processes.ts'
import { type Pulsing, pulse } from '#host/sandbox/pulse.ts'

await execa('make', ['container-tools'])

function start(t: Test, file: string, args: readonly string[]): ChildProcess {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

/** A process that does nothing, as a sandbox's record has it. */
async function owned(t: Test, name: string): Promise<Required<OwnedProcess>> {
  const child = start(t, 'sleep', ['1000'])
  await once(child, 'spawn')
  const pid = child.pid ?? NaN
  return { kind: 'process', name, pid, startTicks: processStatNow(pid)?.startTicks ?? '' }
}

const signal = (pid: number, name: NodeJS.Signals) => {
  process.kill(pid, name)
  for (const wanted = name === 'SIGSTOP'; (processStatNow(pid)?.state === 'T') !== wanted; );
}

/** Resolves when a debugger holds it. */
async function debug(t: Test, pid: number): Promise<void> {
  const { stdout } = start(t, 'build/test/debugger', [`${pid}`])
  if (stdout !== null) await once(stdout, 'data')
}

t.test('each process of the record is looked at, and one that is stopped is named', async (t) => {
  const [qemu, virtiofsd] = [await owned(t, 'qemu'), await owned(t, 'virtiofsd')]
  const intended: OwnedProcess = { kind: 'process', name: 'vhost-device-vsock' }
  const processes = await processesOf([{ kind: 'file', path: '/nowhere' }, qemu, virtiofsd, intended])
  t.match(processes, [qemu, virtiofsd].map(({ name, pid, startTicks }) => ({ name, pid, startTicks })))
  t.equal(processes.length, 2)
  t.equal(findHeld(processes), undefined)
  for (const { name, pid } of [qemu, virtiofsd]) {
    signal(pid, 'SIGSTOP')
    const held = findHeld(processes)
    t.match(held, { process: { name, pid }, by: 'signal' })
    t.equal(held && frozenReason(held), `the guest is frozen: ${name} (pid ${pid}) was stopped by a signal`)
    signal(pid, 'SIGCONT')
    t.equal(findHeld(processes), undefined)
  }
})

t.test('what a helper has forked bears its name', async (t) => {
  const child = start(t, 'sh', ['-c', 'sleep 1000 & echo $!; wait'])
  t.teardown(() => process.kill(forked, 'SIGKILL'))
  const [line] = child.stdout === null ? [] : await once(child.stdout, 'data')
  const forked = Number(line)
  const pid = child.pid ?? NaN
  t.match(await childrenOf(pid), [{ pid: forked }])
  const processes = await processesOf([{ kind: 'process', name: 'virtiofsd', pid, startTicks: processStatNow(pid)?.startTicks ?? '' }])
  signal(forked, 'SIGSTOP')
  t.match(findHeld(processes), { process: { name: 'virtiofsd', pid: forked }, by: 'signal' })
})

t.test('a debugger is no signal, and whom it holds does not hide one', async (t) => {
  const [qemu, virtiofsd] = [await owned(t, 'qemu'), await owned(t, 'virtiofsd')]
  const processes = await processesOf([qemu, virtiofsd])
  await debug(t, qemu.pid)
  const held = findHeld(processes)
  t.match(held, { process: { name: 'qemu' }, by: 'debugger' })
  t.equal(held && frozenReason(held), `the guest is frozen: qemu (pid ${qemu.pid}) is held by a debugger`)
  signal(virtiofsd.pid, 'SIGSTOP')
  t.match(findHeld(processes), { process: { name: 'virtiofsd' }, by: 'signal' })
})

t.test('a pid that belongs to another by now is nobody', async (t) => {
  const { name, pid } = await owned(t, 'qemu')
  signal(pid, 'SIGSTOP')
  t.equal(findHeld([{ name, pid, startTicks: '1' }]), undefined)
  t.equal(findHeld([{ name, pid: 2 ** 22 + 1, startTicks: '1' }]), undefined, 'gone')
})

/** With why it was killed. */
function sandbox(id: string, kind: 'ready' | 'stopping', processes: readonly NamedProcess[]): Pulsing & { readonly killed: Promise<string> } {
  const { promise: killed, resolve } = Promise.withResolvers<string>()
  const running = { processes }
  return { id, state: kind === 'ready' ? { kind, running, readyAtMs: 0 } : { kind, running }, kill: async (reason) => resolve(reason), killed }
}

t.test('the pulse ends a sandbox one of whose processes is stopped, by the helper\'s name, and no other', async (t) => {
  const [helper, well, debugged, stopping, looked] = [await owned(t, 'virtiofsd-roots'), await owned(t, 'qemu'), await owned(t, 'qemu'), await owned(t, 'qemu'), await owned(t, 'qemu')]
  const ill = sandbox('ill', 'ready', [well, helper])
  const late = sandbox('late', 'ready', [looked])
  const others = [sandbox('well', 'ready', [well]), sandbox('debugged', 'ready', [debugged]), sandbox('stopping', 'stopping', [stopping])]
  for (const { killed } of others) void killed.then((reason) => t.fail(reason))
  await debug(t, debugged.pid)
  for (const { pid } of [helper, stopping]) signal(pid, 'SIGSTOP')
  const over = new AbortController()
  const pulsing = pulse({ all: [...others, ill, late] }, silentLog, over.signal)
  t.equal(await ill.killed, `the guest is frozen: virtiofsd-roots (pid ${helper.pid}) was stopped by a signal`)
  signal(looked.pid, 'SIGSTOP')
  t.match(await late.killed, /qemu \(pid \d+\) was stopped by a signal/, 'and goes on')
  over.abort()
  await pulsing
})
