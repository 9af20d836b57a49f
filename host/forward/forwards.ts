/**
 * Port-forward. containerd dials `localhost:port` inside the pod's network namespace on the host, where nobody of the
 * pod's listens: its servers are in the guest. So localhost of that namespace is taken whole, and each connection to it
 * is carried to the same port of the guest's own localhost, over the vsock:
 *
 *   containerd ──TCP──► localhost of the pod's namespace ──► sandboxer ──vsock──► agent ──TCP──► server in the guest
 *
 * A port nobody listens on is found out only by asking the guest, when the connection has been made; so it is reset at
 * once. Nothing here needs undoing: a sandboxer's end takes the listener and its connections along, and the next one
 * listens again when it adopts the guest.
 */
import type { Socket } from 'node:net'
import { explain, RuntimeError } from '#shared/errors.ts'
import { ANSWER_BYTES, answers, FORWARD_PORT, PORT_BYTES } from '#shared/forward/frame.ts'
import { readExactly } from '#shared/forward/read.ts'
import { reset } from '#shared/forward/reset.ts'
import { splice } from '#shared/forward/splice.ts'
import { Gate } from '#shared/gate.ts'
import { GUEST_READ_SHARE_MAX } from '#shared/link-limits.ts'
import type { Log } from '#shared/log.ts'
import type { Localhost } from '#shared/os/contract.ts'
import { isErrno, OsError } from '#shared/os/error.ts'
import { TimeShare } from '#shared/ttrpc/time-share.ts'
import { hangUp } from '../link/hang-up.ts'

/** Connections of one pod at the same time; one more is reset. */
export const FORWARDS_MAX = 1024
/** Of one pod, being dialled at the same time: the guest's and its device's queues hold 128. */
const DIALS_MAX = 64
/** What a guest gets to be dialled and to answer, in ms: more than it gives a server whose queue is full. */
const OPEN_MS_MAX = 15_000

export interface ForwardTarget {
  readonly netnsPath: string
  /** A connection to a vsock port of the guest. */
  readonly dial: (port: number, signal: AbortSignal) => Promise<Socket>
  readonly log: Log
}

/** Of all pods, since the sandboxer started. */
export interface ForwardCounts {
  readonly open: number
  /** The guest took the connection; those that are open included */
  readonly carried: number
  /** Beyond FORWARDS_MAX, or of a pod that ends */
  readonly refused: number
  /** Nobody listened in the guest, or it did not answer */
  readonly failed: number
  /** What clients have sent */
  readonly bytesIn: number
  /** What clients were sent */
  readonly bytesOut: number
}

export interface Forwards {
  /** Until disposed. Never rejects: a pod is none the worse for want of it, and the log says what lacks. */
  open(target: ForwardTarget): Promise<Disposable>
}

export interface CountedForwards extends Forwards {
  counts(): ForwardCounts
}

export function createForwards(localhost: Localhost): CountedForwards {
  let told = false
  const tally = new Tally()
  return {
    counts: () => tally.counts(),
    async open(target) {
      const pod = new PodForwards(target, tally)
      try {
        const listener = await localhost.listen(target.netnsPath, (socket, port) => void pod.forward(socket, port))
        return {
          [Symbol.dispose]: () => {
            listener.close()
            pod.close()
          },
        }
      } catch (error) {
        // What the machine lacks, it lacks for every pod.
        if (!told) target.log.warn(`port-forward is refused: ${lacking(error)}`, { error: explain(error) })
        told = true
        return { [Symbol.dispose]() {} }
      }
    },
  }
}

function lacking(error: unknown): string {
  if (isErrno(error, 'EPERM')) return 'it needs CAP_SYS_ADMIN'
  if (error instanceof OsError && error.syscall.startsWith('bpf')) return 'it needs Linux 5.9 or newer with CONFIG_BPF_SYSCALL'
  return "the pod's localhost cannot be had"
}

/** A connection's bytes are its socket's own count: nothing is added to the way of the data. */
class Tally {
  readonly #open = new Set<Socket>()
  #carried = 0
  #refused = 0
  #failed = 0
  #bytesIn = 0
  #bytesOut = 0

  counts(): ForwardCounts {
    let [bytesIn, bytesOut] = [this.#bytesIn, this.#bytesOut]
    for (const { bytesRead, bytesWritten } of this.#open) {
      bytesIn += bytesRead
      bytesOut += bytesWritten
    }
    return { open: this.#open.size, carried: this.#carried, refused: this.#refused, failed: this.#failed, bytesIn, bytesOut }
  }

  refused(): void {
    this.#refused++
  }

  opened(plain: Socket): void {
    this.#open.add(plain)
  }

  carried(): void {
    this.#carried++
  }

  /** `carried`: whether it had been */
  ended(plain: Socket, carried: boolean): void {
    if (!this.#open.delete(plain)) return
    if (!carried) this.#failed++
    this.#bytesIn += plain.bytesRead
    this.#bytesOut += plain.bytesWritten
  }
}

class PodForwards {
  readonly #target: ForwardTarget
  readonly #tally: Tally
  readonly #dials = new Gate(DIALS_MAX)
  readonly #readShare = new TimeShare(GUEST_READ_SHARE_MAX)
  readonly #open = new Set<Socket>()
  readonly #closed = new AbortController()

  constructor(target: ForwardTarget, tally: Tally) {
    this.#target = target
    this.#tally = tally
  }

  /** Resolves when the connection is over. */
  async forward(plain: Socket, port: number): Promise<void> {
    // Its client may be gone before the guest has answered.
    plain.on('error', () => {})
    if (this.#open.size >= FORWARDS_MAX || this.#closed.signal.aborted) {
      this.#target.log.warn('a forward is refused', { port, open: this.#open.size })
      this.#tally.refused()
      reset(plain)
      return
    }
    this.#open.add(plain)
    this.#tally.opened(plain)
    let carried = false
    try {
      const carrier = await this.#dials.run(() => this.#dial(port))
      carried = true
      this.#tally.carried()
      await splice(plain, carrier, 'host', hangUp, this.#readShare)
    } catch (error) {
      reset(plain)
      this.#target.log.debug('a forward ended', { port, error: explain(error) })
    } finally {
      this.#open.delete(plain)
      this.#tally.ended(plain, carried)
    }
  }

  /** Resets them all. */
  close(): void {
    this.#closed.abort(new RuntimeError('CANCELLED', 'the sandbox ends'))
    for (const plain of this.#open) reset(plain)
  }

  /** Errors: UNAVAILABLE when nobody listens on the port in the guest, or the guest does not answer as it should. */
  async #dial(port: number): Promise<Socket> {
    const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(OPEN_MS_MAX)])
    const carrier = await this.#target.dial(FORWARD_PORT, signal)
    try {
      carrier.write(portMessage(port))
      const [answer] = await readExactly(carrier, ANSWER_BYTES, signal)
      if (answer === answers.connected) return carrier
      throw new RuntimeError('UNAVAILABLE', answer === answers.refused ? `nobody listens on port ${port} in the guest` : `port ${port} in the guest cannot be reached`)
    } catch (error) {
      hangUp(carrier)
      throw error
    }
  }
}

function portMessage(port: number): Buffer {
  const bytes = Buffer.allocUnsafe(PORT_BYTES)
  bytes.writeUInt16BE(port)
  return bytes
}
