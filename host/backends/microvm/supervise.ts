/** A sandbox lives as long as all of its processes, and each of their threads. The first death ends it, and has a reason a person can act on. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Culprit, SandboxExit } from '#host/sandbox/backend.ts'
import { VHOST_VSOCK } from './names.ts'
import type { Panic } from './panics.ts'
import { type HostProcess, type ProcessExit, describeExit } from './process.ts'

/**
 * A VMM that ends takes its helpers along, and theirs are the first deaths to be told: it closes their sockets some time
 * before it is gone. So a helper's death is judged only after the VMM had this long to follow, in ms.
 */
const SETTLE_MS = 300

export interface Supervised {
  readonly exited: Promise<SandboxExit>
  /** From here on a death is expected. */
  expect(): void
}

export interface SuperviseOptions {
  /** The VMM first: of deaths together, its is the cause. */
  readonly processes: readonly HostProcess[]
  /** What the VMM said about its end */
  readonly ending: () => string | undefined
  /** Whether that was the guest's own doing */
  readonly endedByGuest: () => boolean
  /** Resolves when the VMM says that its VM has ended */
  readonly announced: Promise<void>
  /** Resolves when one of them has lost a thread */
  readonly panicked: Promise<Panic>
}

export function supervise({ processes, ending, endedByGuest, announced, panicked }: SuperviseOptions): Supervised {
  let expected = false
  const judge = async (): Promise<SandboxExit> => {
    // What the VMM says is heard first, and needs no second look: to take itself and its helpers down costs it a while.
    const said = announced.then(() => ({ atMs: Date.now() }))
    let panic: Panic | undefined
    const lost = panicked.then((first) => (panic = first))
    const { atMs } = await Promise.race([...processes.map(({ exited }) => exited), said, lost])
    if (expected) return { reason: 'ended by the sandboxer', of: 'vmm', atMs, expected }
    const [vmm, ...helpers] = processes
    await Promise.race([vmm?.exited, said, sleep(SETTLE_MS)])
    const reason = ending()
    const dead = helpers.find((process) => process.ended() !== undefined)
    // What it said counts as well as its death, which may take longer on a loaded machine.
    if (panic !== undefined && dead === undefined && vmm?.ended() === undefined && reason === undefined) return { reason: `${panic.name}: ${panic.said}`, of: helperOf(panic.name), atMs, expected: false }
    const cause = vmm !== undefined && (vmm.ended() !== undefined || reason !== undefined) ? vmm : dead
    const exit = cause?.ended() ?? { code: undefined, signal: undefined, atMs }
    const of = cause === vmm ? (endedByGuest() ? 'guest' : 'vmm') : helperOf(cause?.name ?? '')
    return { reason: reasonOf(cause?.name ?? '', exit, cause === vmm ? reason : undefined), of, atMs, expected: false }
  }
  return { exited: judge(), expect: () => void (expected = true) }
}

const helperOf = (name: string): Culprit => (name === VHOST_VSOCK ? 'vsock' : 'virtiofsd')

/** A VMM that said why it ends and then ended well has no more to tell, so its status is left out. */
export function reasonOf(name: string, exit: ProcessExit, said: string | undefined): string {
  if (said === undefined) return `${name} ${describeExit(exit)}`
  const orderly = exit.signal === undefined && (exit.code ?? 0) === 0
  return `${name} ${orderly ? 'ended' : describeExit(exit)}: ${said}`
}
