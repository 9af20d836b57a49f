/**
 * What a process prints, on its way to whoever reads it: the read end of a pipe (or a pty), a bounded buffer, and at
 * most one reader at a time.
 *
 *   process ──pipe──► buffer ──(credit)──► unconfirmed ──► reader
 *                       ▲                        │
 *                       └──── reader went ───────┘
 *
 * When the buffer is full the pipe is no longer read, and the process waits: nothing is dropped, whether the reader is
 * slow or away. `delivered` is the moment from which containerd may be told that the process has stopped.
 */
import { Readable } from 'node:stream'
import { ByteQueue } from '#shared/bytes.ts'
import { DATA_BYTES_MAX, OutputReader } from './reader.ts'

/** Every wait and every buffer of an output, in one place. */
export interface OutputPolicy {
  /** Above it the process's pipe is left unread. */
  readonly bufferBytesMax: number
  /** Bytes sent to a reader that stayed this long count as read. */
  readonly settledMs: number
  /** How long, after the process's end, output is awaited from others that hold the same pipe (a daemon it started). */
  readonly inheritedMs: number
  /** How long, after the end, a reader may make no progress before Wait is answered without it. */
  readonly stalledMs: number
  /** How long, after the end, there may be no reader at all; undefined: for ever, as containerd comes back for it. */
  readonly abandonedMs: number | undefined
}

export class Output {
  /** Resolves once everything was read, or nobody can be expected to read it. Never rejects. */
  readonly delivered: Promise<void>
  readonly #deliver: () => void
  readonly #policy: OutputPolicy
  readonly #source: Readable
  #buffer = new ByteQueue()
  #ended = false
  #discarded = false
  #exited = false
  #isDelivered = false
  #paused = false
  #pausedSinceCheck = false
  #reader: OutputReader | undefined
  #lastProgressMs = performance.now()
  #timers = new Set<NodeJS.Timeout>()

  constructor(source: Readable, policy: OutputPolicy) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.delivered = promise
    this.#deliver = resolve
    this.#policy = policy
    this.#source = source
    source.on('data', (chunk: Buffer) => this.#received(chunk))
    source.on('error', () => this.#sourceEnded())
    source.on('close', () => this.#sourceEnded())
    source.on('end', () => this.#sourceEnded())
  }

  /** Of a process that never was. */
  static none(policy: OutputPolicy): Output {
    const output = new Output(Readable.from([]), policy)
    output.discard()
    return output
  }

  /** Bytes held for a reader. */
  get buffered(): number {
    return this.#buffer.length
  }

  /** Makes the caller the reader. A reader that was there before gets an ABORTED error. */
  attach(signal: AbortSignal): OutputReader {
    const before = this.#reader
    if (before !== undefined) {
      before.preempt()
      this.#release(before)
    }
    const reader: OutputReader = new OutputReader(this.#policy.settledMs, {
      take: (max) => this.#take(max),
      ended: () => this.#ended && this.#buffer.length === 0,
      progress: () => this.#progress(),
      confirmed: () => this.#confirmed(reader),
      detached: () => this.#release(reader),
    }, signal)
    this.#reader = reader
    this.#progress()
    return reader
  }

  /** The process is gone: its output has an end now, also when others still hold the pipe. */
  processExited(): void {
    if (this.#exited) return
    this.#exited = true
    this.#progress()
    this.#watchInherited()
    this.#watchReader()
    this.#judge()
  }

  /** Gives everything up: the task is being deleted. */
  discard(): void {
    this.#discarded = true
    this.#source.destroy()
    this.#buffer.clear()
    this.#ended = true
    this.#finish()
    this.#reader?.wake()
  }

  #received(chunk: Buffer): void {
    this.#buffer.append(chunk)
    if (this.#buffer.length >= this.#policy.bufferBytesMax) {
      this.#paused = true
      this.#pausedSinceCheck = true
      this.#source.pause()
    }
    this.#reader?.wake()
  }

  #sourceEnded(): void {
    if (this.#ended) return
    this.#ended = true
    this.#reader?.wake()
    this.#judge()
  }

  #take(max: number): Buffer {
    const bytes = this.#buffer.take(Math.min(max, DATA_BYTES_MAX))
    if (this.#paused && this.#buffer.length < this.#policy.bufferBytesMax / 2) {
      this.#paused = false
      this.#source.resume()
    }
    return bytes
  }

  #confirmed(reader: OutputReader): void {
    if (this.#reader !== reader) return
    if (this.#ended && this.#buffer.length === 0) this.#finish()
  }

  #release(reader: OutputReader): void {
    if (this.#reader !== reader) return
    this.#reader = undefined
    this.#progress()
    const again = reader.takeUnconfirmed()
    // Also when nobody waits for it any more: a reader that went unheard may come back for it.
    if (this.#discarded || again.length === 0) return this.#judge()
    for (let bytes = this.#buffer.take(DATA_BYTES_MAX); bytes.length > 0; bytes = this.#buffer.take(DATA_BYTES_MAX)) {
      again.append(bytes)
    }
    this.#buffer = again
  }

  /** With nothing left and nobody to confirm it, there is nothing to wait for. */
  #judge(): void {
    if (this.#ended && this.#buffer.length === 0 && this.#reader === undefined) this.#finish()
  }

  #finish(): void {
    if (this.#isDelivered) return
    this.#isDelivered = true
    for (const timer of this.#timers) clearInterval(timer)
    this.#timers.clear()
    this.#deliver()
  }

  #progress(): void {
    this.#lastProgressMs = performance.now()
  }

  /**
   * What the process itself wrote is in the pipe by now. Once the pipe was left unread at no time for a whole period,
   * all of that has been taken, and only others can write more. The look comes after the event loop's next round of
   * reading: an agent that was not scheduled for longer than the period finds its timers due before its pipes read.
   */
  #watchInherited(): void {
    this.#every(this.#policy.inheritedMs, () => {
      const wasPaused = this.#pausedSinceCheck
      this.#pausedSinceCheck = this.#paused
      if (wasPaused) return
      setImmediate(() => {
        if (!this.#ended && !this.#pausedSinceCheck) this.#source.destroy()
      })
    })
  }

  /** Here, too, what came while the agent was not scheduled is heard before the reader is given up. */
  #watchReader(): void {
    const { stalledMs, abandonedMs } = this.#policy
    const late = () => {
      const limitMs = this.#reader === undefined ? abandonedMs : stalledMs
      return limitMs !== undefined && performance.now() - this.#lastProgressMs >= limitMs
    }
    const shortest = Math.min(stalledMs, abandonedMs ?? stalledMs)
    this.#every(Math.max(10, shortest / 4), () => {
      if (late()) setImmediate(() => late() && this.#finish())
    })
  }

  #every(ms: number, act: () => void): void {
    if (this.#isDelivered) return
    const timer = setInterval(act, ms)
    timer.unref()
    this.#timers.add(timer)
  }
}
