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

export interface Forwards {
  /** Until disposed. Never rejects: a pod is none the worse for want of it, and the log says what lacks. */
  open(target: ForwardTarget): Promise<Disposable>
}

export function createForwards(localhost: Localhost): Forwards {
  let told = false
  return {
    async open(target) {
      const pod = new PodForwards(target)
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

class PodForwards {
  readonly #target: ForwardTarget
  readonly #dials = new Gate(DIALS_MAX)
  readonly #readShare = new TimeShare(GUEST_READ_SHARE_MAX)
  readonly #open = new Set<Socket>()
  readonly #closed = new AbortController()

  constructor(target: ForwardTarget) {
    this.#target = target
  }

  /** Resolves when the connection is over. */
  async forward(plain: Socket, port: number): Promise<void> {
    // Its client may be gone before the guest has answered.
    plain.on('error', () => {})
    if (this.#open.size >= FORWARDS_MAX || this.#closed.signal.aborted) {
      this.#target.log.warn('a forward is refused', { port, open: this.#open.size })
      reset(plain)
      return
    }
    this.#open.add(plain)
    try {
      const carrier = await this.#dials.run(() => this.#dial(port))
      await splice(plain, carrier, 'host', hangUp, this.#readShare)
    } catch (error) {
      reset(plain)
      this.#target.log.debug('a forward ended', { port, error: explain(error) })
    } finally {
      this.#open.delete(plain)
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
