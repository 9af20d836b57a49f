/** Frozen, busy and healthy guests, told apart while the sandboxer runs. */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import t from 'tap'
import { proveAlive } from '#host/sandbox/liveness.ts'
import { processStatNow } from '#host/sandbox/processes.ts'
import { Daemon } from '#test/host/daemon.ts'

const never = (signal: AbortSignal) => new Promise<void>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

t.test('what its processor time says of a silent guest', async (t) => {
  const started = async (name: string, script: string) => {
    const child = spawn('sh', ['-c', script], { stdio: 'ignore' })
    await once(child, 'spawn')
    t.teardown(() => child.kill('SIGKILL'))
    const pid = child.pid ?? NaN
    return { name, pid, startTicks: processStatNow(pid)?.startTicks ?? '' }
  }
  const guest = async (script: string) => {
    const vmm = await started('qemu', script)
    return { vmmPid: vmm.pid, processes: [vmm] }
  }
  const patience = { quietMs: 1_000, busyMs: 3_000 }
  t.match(await proveAlive(never, await guest('while :; do :; done'), patience), { kind: 'slow' }, 'busy')
  t.match(await proveAlive(never, await guest('exec sleep 1000'), patience), { kind: 'dead', reason: /no answer in \d+ ms, and its VM does nothing/ }, 'idle')
  const endless = { quietMs: 60_000, busyMs: 60_000 }
  const stopped = await guest('exec sleep 1000')
  process.kill(stopped.vmmPid, 'SIGSTOP')
  t.match(await proveAlive(never, stopped, endless), { kind: 'dead', reason: /: qemu \(pid \d+\) was stopped by a signal/ }, 'stopped')
  let attempts = 0
  const late = async () => {
    if (++attempts < 3) throw new Error('nobody listens')
  }
  t.match(await proveAlive(late, stopped, endless), { kind: 'alive' }, 'a listener that was away for a moment')
  const helper = await started('virtiofsd', 'exec sleep 1000')
  process.kill(helper.pid, 'SIGSTOP')
  const { vmmPid, processes } = await guest('while :; do :; done')
  t.match(await proveAlive(never, { vmmPid, processes: [...processes, helper] }, endless), { kind: 'dead', reason: /: virtiofsd \(pid \d+\) was stopped by a signal/ }, 'of a busy VMM the helper')
})

// Without containerd hearts beat every 2 s; what finds it between two beats is held by frozen.test.ts.
t.test('a guest that freezes is ended, and no other', async (t) => {
  await using daemon = await Daemon.start({ kind: 'fake-shared', backend: 'processes = true' })
  daemon.ids.add('q-frozen').add('q-well')
  await daemon.run('q-frozen')
  const pid = await daemon.guest()
  await daemon.run('q-well')
  const waiting = daemon.controller.Wait({ sandboxId: 'q-frozen' })
  process.kill(pid, 'SIGSTOP')
  t.match(await waiting, { exitStatus: 137 })
  t.match(await daemon.controller.Status({ sandboxId: 'q-well' }), { state: 'SANDBOX_READY' })
  for (const id of daemon.ids) await daemon.remove(id)
  t.same(await daemon.leftovers(), [])
})
