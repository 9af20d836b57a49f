import { readFileSync, readlinkSync } from 'node:fs'
import { execa } from 'execa'
import t from 'tap'
import { createNativeOs } from '#shared/os/native.ts'
import { INIT, INIT_SMALL_PIPE, SMALL_PIPE_RECORDS, inNamespace, superviseScene } from '#test/support/init-namespace.ts'

await execa('make', ['init', 'init-test-tools', 'os-addon'])

/** The JSON line a scene printed. */
function said(output: string): unknown {
  const line = output.split('\n').find((text) => text.startsWith('{'))
  return line === undefined ? output : JSON.parse(line)
}

await t.test('each way to end arrives as waitpid tells it, dated, in order', async (t) => {
  const run = await superviseScene(['kinds'])
  t.same(said(run.output), { statuses: [0, 9, 15, 7 << 8, 255 << 8], timesInOrder: true })
})

await t.test('thousands of orphans: every exit once, no zombie left', async (t) => {
  const run = await superviseScene(['flood', '3000', '0'])
  t.same(said(run.output), { records: 3000, wrong: 0 })
})

await t.test('a full pipe: what does not fit waits as zombies and is lost never', async (t) => {
  const orphans = 1000
  const run = await superviseScene(['flood', `${orphans}`, `${orphans - SMALL_PIPE_RECORDS}`], INIT_SMALL_PIPE)
  t.same(said(run.output), { records: orphans, wrong: 0 })
})

await t.test('the agent’s environment', async (t) => {
  const run = await superviseScene(['environment'])
  t.match(said(run.output), { env: { PATH: /usr\/bin/, HOME: '/', KUASAR_BOOT_MARKS: /^agent-exec:\d+$/ }, stdin: '' })
})

const deaths = [
  { scene: ['exit', '0'], says: /init: the agent \(pid \d+\) exited with status 0; powering off/ },
  { scene: ['exit', '14'], says: /exited with status 14; powering off/ },
  { scene: ['die', 'SIGKILL'], says: /was killed by signal 9 \(Killed\); powering off/ },
  { scene: ['die', 'SIGSEGV'], says: /was killed by signal 11 \(Segmentation fault\); powering off/ },
  { scene: ['die', 'SIGSTOP'], says: /the agent \(pid \d+\) was stopped by signal 19 \(Stopped \(signal\)\) and is still; powering off/ },
  { scene: ['close-pipe'], says: /closed its exit pipe; powering off/ },
] as const
for (const { scene, says } of deaths) {
  await t.test(`the agent's death is told and powers off: ${scene.join(' ')}`, async (t) => {
    const run = await superviseScene(scene)
    t.match(run.output, says)
    t.ok(run.poweredOff)
  })
}

await t.test('an agent that is continued at once goes on', async (t) => {
  const run = await superviseScene(['stumble'])
  t.match(said(run.output), { goesOn: true })
  t.match(run.output, /exited with status 0; powering off/)
})

await t.test('an agent that cannot be executed is told, with its path', async (t) => {
  const run = await inNamespace([INIT, 'supervise', '/nowhere/agent'])
  t.match(run.output, /cannot start the agent \/nowhere\/agent: No such file or directory/)
  t.match(run.output, /exited with status 127; powering off/)
  t.ok(run.poweredOff)
})

await t.test('outside of a guest it says what it is', async (t) => {
  const { exitCode, stderr } = await execa(INIT, [], { reject: false })
  t.equal(exitCode, 2)
  t.match(stderr, /this is PID 1 of a guest/)
})

await t.test('supervise, when not PID 1, powers nothing off', async (t) => {
  // In a namespace, so that a power-off would end its PID 1, the shell, and not this machine.
  const { output } = await inNamespace(['sh', '-c', `${INIT} supervise /bin/true; echo "status $?, survived"`])
  t.match(output, /this is PID 1 of a guest/)
  t.match(output, 'status 2, survived')
})

await t.test('pause: first process of a PID namespace, whose pid it prints; it reaps, and nothing inside ends it', async (t) => {
  const { stdout } = await execa(INIT, ['pause'])
  const pid = Number(stdout)
  t.teardown(() => execa('kill', ['-9', `${pid}`], { reject: false }))
  const inside = (script: string) => execa('nsenter', ['-t', `${pid}`, '-p', 'sh', '-c', script])
  t.equal((await inside('(exit 3) & echo $$')).exitCode, 0)
  t.not(readlinkSync(`/proc/${pid}/ns/pid`), readlinkSync('/proc/self/ns/pid'))
  for (let left = ['?']; left.length > 0; ) left = children(pid)
  t.pass('the orphan was reaped')
  await inside('kill -TERM 1; kill -INT 1; kill -KILL 1')
  t.equal((await inside('echo $$')).exitCode, 0)
  const ended = new Promise<void>((done) => void createNativeOs().processes.watch(pid, done))
  process.kill(pid, 'SIGKILL')
  await ended
})

function children(pid: number): string[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter((child) => child !== '')
}
