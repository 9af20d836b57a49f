/** Real processes: how they are started, how their end is noticed, and that a later sandboxer finds the same one. */
import { readFileSync, readdirSync } from 'node:fs'
import { mkdtemp, readFile, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import type { Processes } from '#shared/os/contract.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { type HostProcess, adoptProcess, describeExit, startProcess } from '#host/backends/microvm/process.ts'
import { endProcess, isAlive } from '#host/sandbox/processes.ts'

await execa('make', ['os-addon'])
const { processes } = createNativeOs()
const watch: Processes['watch'] = (pid, onExit) => processes.watch(pid, onExit)

/** O_CLOEXEC as /proc/PID/fdinfo shows it, in octal. */
const CLOEXEC = 0o2000000
const inherited = readdirSync('/proc/self/fd').filter((fd) => Number(fd) > 2 && !closesOnExec(fd))

function closesOnExec(fd: string): boolean {
  try {
    const flags = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0'
    return (Number.parseInt(flags, 8) & CLOEXEC) !== 0
  } catch {
    // The descriptor of the listing itself.
    return true
  }
}

interface Started {
  readonly process: HostProcess
  readonly dir: string
  readonly log: () => Promise<string>
}

async function start(t: Test, script: string, cgroupProcs: readonly string[] = []): Promise<Started> {
  const dir = await mkdtemp('/tmp/microvm-process-')
  const logFile = join(dir, 'p.log')
  const command = { file: '/bin/sh', args: ['-c', script] }
  const process = startProcess({ sandboxId: 'sb', name: 'p', command, cgroupProcs, netnsPath: undefined, privileged: true, dir, logFile })
  t.teardown(async () => {
    if (await isAlive(process.pid, process.startTicks)) await endProcess(process.pid, process.startTicks)
    await rm(dir, { recursive: true })
  })
  return { process, dir, log: () => readFile(logFile, 'utf8') }
}

const secret = 'of the sandboxer'
process.env['KUASAR_TEST_SECRET'] = secret

t.test('its own session, no inherited descriptor, nothing of our environment', async (t) => {
  const { process: child, dir, log } = await start(t, 'echo up; while :; do sleep 600; done')
  while ((await log()) === '') await new Promise((resolve) => setTimeout(resolve, 5))
  const stat = (await readFile(`/proc/${child.pid}/stat`, 'latin1')).split(' ')
  t.equal(Number(stat[5]), child.pid, 'leads its session')
  t.equal(await readlink(`/proc/${child.pid}/cwd`), dir)
  // What this test itself was started with is not ours to close; all that Node opens is close-on-exec.
  const fds = (await readdir(`/proc/${child.pid}/fd`)).filter((fd) => !inherited.includes(fd))
  const descriptors = await Promise.all(fds.map(async (fd) => [fd, await readlink(`/proc/${child.pid}/fd/${fd}`)]))
  t.strictSame(Object.fromEntries(descriptors), { 0: '/dev/null', 1: join(dir, 'p.log'), 2: join(dir, 'p.log') })
  t.notMatch(await readFile(`/proc/${child.pid}/environ`, 'latin1'), secret)
  t.match(await readFile(`/proc/${child.pid}/limits`, 'latin1'), /^Max core file size\s+0\s+0\s/m)
})

t.test('it joins its cgroups before it runs', async (t) => {
  // A file stands in for cgroup.procs: what matters is that the pid is in it by the time the program runs.
  const procs = join(await mkdtemp('/tmp/microvm-cgroup-'), 'cgroup.procs')
  t.teardown(() => rm(join(procs, '..'), { recursive: true }))
  await writeFile(procs, '')
  const { process: child, log } = await start(t, `cat ${procs}`, [procs])
  await child.exited
  t.equal(await log(), `${child.pid}\n`)
})

t.test('how a child ended is told', async (t) => {
  const { process: child, log } = await start(t, 'echo last words >&2; exit 3')
  const exit = await child.exited
  t.match(exit, { code: 3, signal: undefined })
  t.equal(describeExit(exit), 'ended with code 3')
  t.strictSame(child.ended(), exit)
  t.equal(await log(), 'last words\n')
})

t.test('a kill takes what the process forked along', async (t) => {
  const { process: child, log } = await start(t, 'sleep 600 & echo $!; wait')
  while ((await log()) === '') await new Promise((resolve) => setTimeout(resolve, 5))
  const grandchild = Number(await log())
  const { promise: grandchildGone, resolve } = Promise.withResolvers<void>()
  watch(grandchild, resolve)
  await child.kill()
  t.match(child.ended(), { signal: 'SIGKILL' })
  await grandchildGone
  await child.kill()
})

t.test('an adopted process is watched and killed as a child is', async (t) => {
  const { process: child } = await start(t, 'while :; do sleep 600; done')
  const adopted = await adoptProcess(child, watch)
  child.detach()
  t.equal(adopted.ended(), undefined)
  await adopted.kill()
  t.match(await adopted.exited, { code: undefined, signal: undefined })
  t.equal(describeExit(await adopted.exited), 'ended')
  await t.rejects(adoptProcess(child, watch), { code: 'NOT_FOUND' })
})

t.test('a pid that went to another process is not adopted', async (t) => {
  const { process: child } = await start(t, 'while :; do sleep 600; done')
  const { name, pid, startTicks } = child
  await t.rejects(adoptProcess({ name, pid, startTicks: String(Number(startTicks) - 1) }, watch), { code: 'NOT_FOUND', message: /is gone/ })
})

t.test('a detached process lives on unwatched', async (t) => {
  const { process: child } = await start(t, 'while :; do sleep 600; done')
  const adopted = await adoptProcess(child, watch)
  adopted.detach()
  await child.kill()
  t.equal(adopted.ended(), undefined)
})
