/** Which death is the reason, when one takes the others along. */
import t from 'tap'
import type { HostProcess, ProcessExit } from '#host/backends/microvm/process.ts'
import { supervise } from '#host/backends/microvm/supervise.ts'

interface Mortal extends HostProcess {
  die(exit: Partial<ProcessExit>): void
}

function mortal(name: string): Mortal {
  const { promise, resolve } = Promise.withResolvers<ProcessExit>()
  let exit: ProcessExit | undefined
  return {
    name,
    pid: 1,
    startTicks: '1',
    exited: promise,
    ended: () => exit,
    kill: async () => {},
    detach() {},
    die(how) {
      exit = { code: undefined, signal: undefined, atMs: 7, ...how }
      resolve(exit)
    },
  }
}

/** A VMM that says nothing */
const silence = new Promise<never>(() => {})

const trio = () => [mortal('qemu'), mortal('virtiofsd'), mortal('vhost-device-vsock')] as const

t.test('a helper that dies alone is the reason', async (t) => {
  const [vmm, virtiofsd, vsock] = trio()
  const { exited } = supervise({ processes: [vmm, virtiofsd, vsock], ending: () => undefined, endedByGuest: () => false, announced: silence, panicked: silence })
  virtiofsd.die({ signal: 'SIGKILL' })
  t.strictSame(await exited, { reason: 'virtiofsd was killed by SIGKILL', of: 'virtiofsd', atMs: 7, expected: false })
})

t.test("the VMM's death is the reason also when a helper's is told first, with what it said", async (t) => {
  const [vmm, virtiofsd, vsock] = trio()
  const { exited } = supervise({ processes: [vmm, virtiofsd, vsock], ending: () => 'the guest powered off', endedByGuest: () => true, announced: silence, panicked: silence })
  virtiofsd.die({ code: 0 })
  setImmediate(() => vmm.die({ code: 0 }))
  t.match(await exited, { reason: 'qemu ended: the guest powered off', of: 'guest' })
})

t.test('a VMM that said it ends is the reason before it has', async (t) => {
  const [vmm, virtiofsd, vsock] = trio()
  const { exited } = supervise({ processes: [vmm, virtiofsd, vsock], ending: () => 'the guest powered off', endedByGuest: () => true, announced: silence, panicked: silence })
  virtiofsd.die({ code: 0 })
  t.equal((await exited).reason, 'qemu ended: the guest powered off')
})

t.test('a VMM that says it ends ends the sandbox while all of its processes still run', async (t) => {
  const announced = Promise.withResolvers<void>()
  const { exited } = supervise({ processes: trio(), ending: () => 'the guest powered off', endedByGuest: () => true, announced: announced.promise, panicked: silence })
  announced.resolve()
  t.match(await exited, { reason: 'qemu ended: the guest powered off', expected: false })
})

t.test('a death that was asked for is expected, one before the asking is not', async (t) => {
  const [vmm, ...helpers] = trio()
  const asked = supervise({ processes: [vmm, ...helpers], ending: () => undefined, endedByGuest: () => false, announced: silence, panicked: silence })
  asked.expect()
  vmm.die({ signal: 'SIGKILL' })
  t.match(await asked.exited, { expected: true, reason: 'ended by the sandboxer' })

  const [other, ...others] = trio()
  const unasked = supervise({ processes: [other, ...others], ending: () => undefined, endedByGuest: () => false, announced: silence, panicked: silence })
  other.die({ signal: 'SIGSEGV' })
  setImmediate(() => unasked.expect())
  t.match(await unasked.exited, { expected: false, reason: 'qemu was killed by SIGSEGV', of: 'vmm' })
})

t.test('a helper that lost a thread and goes on ends the sandbox, with what it said', async (t) => {
  const panicked = Promise.resolve({ name: 'vhost-device-vsock', said: 'a thread panicked at src/vsock_conn.rs:1:2: broken pipe', atMs: 9 })
  const alone = supervise({ processes: trio(), ending: () => undefined, endedByGuest: () => false, announced: silence, panicked })
  t.strictSame(await alone.exited, { reason: 'vhost-device-vsock: a thread panicked at src/vsock_conn.rs:1:2: broken pipe', of: 'vsock', atMs: 9, expected: false })

  const [vmm, ...helpers] = trio()
  const withVmm = supervise({ processes: [vmm, ...helpers], ending: () => undefined, endedByGuest: () => false, announced: silence, panicked })
  setImmediate(() => vmm.die({ signal: 'SIGKILL' }))
  t.match(await withVmm.exited, { reason: 'qemu was killed by SIGKILL' }, 'a VMM that dies takes threads along')
})
