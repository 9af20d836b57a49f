/** The PID namespace of a pod, as the agent holds it: one for all who want it, and another when its first process was killed. */
import { readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import type { Exit } from '#guest/container/state.ts'
import { PodPidNamespace } from '#guest/runtime/pod-pid.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { INIT } from '#test/support/init-namespace.ts'

const { processes } = createNativeOs()

/** Stands for PID 1, whose child the namespace's first process would be. */
const exits = {
  claim: (pid: number) =>
    new Promise<Exit>((resolve) => void processes.watch(pid, () => resolve({ status: 137, atNanos: 0n }))),
}
const pidOf = (path: string) => Number(/^\/proc\/(\d+)\/ns\/pid$/.exec(path)?.[1])

t.test('one for all who want it, another after its end', async (t) => {
  const podPid = new PodPidNamespace([INIT, 'pause'], exits, () => processes.bootTimeNanos())
  const [path, same] = await Promise.all([podPid.path(), podPid.path()])
  t.equal(path, same)
  t.not(readlinkSync(path), readlinkSync('/proc/self/ns/pid'))
  const ended = exits.claim(pidOf(path))
  process.kill(pidOf(path), 'SIGKILL')
  await ended
  await nextTurn()
  const next = await podPid.path()
  t.teardown(() => process.kill(pidOf(next), 'SIGKILL'))
  t.not(next, path)
  t.ok(readlinkSync(next))
})

t.test('one that cannot be made is tried again', async (t) => {
  const flag = join(t.testdir(), 'may')
  const podPid = new PodPidNamespace(['sh', '-c', `[ -e ${flag} ] && exec ${INIT} pause`], exits, () => processes.bootTimeNanos())
  await t.rejects(podPid.path(), { code: 'INTERNAL', message: /the pod's PID namespace \(sh -c .*\) cannot be made/ })
  writeFileSync(flag, '')
  const path = await podPid.path()
  t.teardown(() => process.kill(pidOf(path), 'SIGKILL'))
  t.ok(readlinkSync(path))
})
