/** Frozen, busy and healthy guests, told apart while the sandboxer runs. */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import t from 'tap'
import { proveAlive } from '#host/sandbox/liveness.ts'
import { Daemon } from '#test/host/daemon.ts'

const never = (signal: AbortSignal) => new Promise<void>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

t.test('what its processor time says of a silent guest', async (t) => {
  const vmm = async (script: string) => {
    const child = spawn('sh', ['-c', script], { stdio: 'ignore' })
    await once(child, 'spawn')
    t.teardown(() => child.kill('SIGKILL'))
    return child.pid ?? NaN
  }
  const patience = { quietMs: 1_000, busyMs: 3_000 }
  t.match(await proveAlive(never, await vmm('while :; do :; done'), patience), { kind: 'slow' }, 'busy')
  t.match(await proveAlive(never, await vmm('exec sleep 1000'), patience), { kind: 'dead', reason: /no answer in \d+ ms, and its VM does nothing/ }, 'idle')
  const stopped = await vmm('exec sleep 1000')
  process.kill(stopped, 'SIGSTOP')
  t.match(await proveAlive(never, stopped, { quietMs: 60_000, busyMs: 60_000 }), { kind: 'dead', reason: /stopped by a signal/ }, 'stopped')
  let attempts = 0
  const late = async () => {
    if (++attempts < 3) throw new Error('nobody listens')
  }
  t.match(await proveAlive(late, stopped, { quietMs: 60_000, busyMs: 60_000 }), { kind: 'alive' }, 'a listener that was away for a moment')
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
