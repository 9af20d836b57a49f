/**
 * The connection a stream is alone on. It knows two things that a call does not: when the peer has closed its side,
 * also after ours is closed (a ttrpc server forgets a call at that moment), and how to end the connection.
 *
 * containerd closes its side of an output stream once it has consumed all of it, which makes that frame the proof of
 * delivery; and it leaves the connection to us (up to 2.2 it never closes it).
 */
import type { Socket } from 'node:net'
import { RuntimeError } from '#shared/errors.ts'
import { frameFlag, FrameParser, frameType } from '#shared/ttrpc/frame.ts'

/** Calls back for every frame that closes the peer's side of a stream. With no size allowed, no frame is ever copied. */
function scanHalfCloses(found: () => void): FrameParser {
  const look = (_id: number, type: number, flags: number) => {
    if (type === frameType.data && (flags & frameFlag.remoteClosed) !== 0) found()
  }
  return new FrameParser({ frame: look, oversize: look }, 0)
}

export class StreamConnection {
  readonly #socket: Socket
  #taken = false
  #peerClosed = false
  readonly #onPeerClosed: (() => void)[] = []

  /** To be made before the socket is given to the server. */
  constructor(socket: Socket) {
    this.#socket = socket
    const scanner = scanHalfCloses(() => {
      if (this.#peerClosed) return
      this.#peerClosed = true
      for (const act of this.#onPeerClosed.splice(0)) act()
    })
    socket.on('data', (chunk: Buffer) => scanner.push(chunk))
  }

  /** Claims the connection for one stream. FAILED_PRECONDITION for a second. */
  take(): void {
    if (this.#taken) throw new RuntimeError('FAILED_PRECONDITION', 'a stream needs a connection of its own, and this one has a stream')
    this.#taken = true
  }

  /** Calls back once, now or later, when the peer has closed its side. */
  whenPeerClosed(act: () => void): void {
    if (this.#peerClosed) act()
    else this.#onPeerClosed.push(act)
  }

  /** Calls back once, now or later, when the connection is over. */
  whenOver(act: () => void): void {
    if (this.#socket.destroyed) act()
    else this.#socket.once('close', act)
  }

  /** Ends the connection once both sides of its stream are closed. `signal` is the call's: aborted when ours is. */
  endWhenClosed(signal: AbortSignal): void {
    const closed = () => this.whenPeerClosed(() => this.#end())
    if (signal.aborted) closed()
    else signal.addEventListener('abort', closed, { once: true })
  }

  /** Ends the connection after `ms`, when it is still there. */
  endAfter(ms: number): void {
    const timer = setTimeout(() => this.#end(), ms)
    this.whenOver(() => clearTimeout(timer))
  }

  /** The last frame has been queued in this turn of the event loop and is written at its end. */
  #end(): void {
    setImmediate(() => this.#socket.destroySoon())
  }
}
