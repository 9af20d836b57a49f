/**
 * QEMU's control socket. QMP is one JSON object per line:
 *
 *   ← {"QMP": {"version": …, "capabilities": […]}}                     greeting
 *   → {"execute": "qmp_capabilities", "id": 1}    ← {"return": {}, "id": 1}
 *   → {"execute": "query-status", "id": 2}        ← {"return": {"status": "running", …}, "id": 2}
 *   ← {"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": …}
 *
 * QEMU is confined and works for a hostile guest, so its lines are bounded and taken for what they prove to be.
 * Source: QEMU, docs/interop/qmp-spec.rst.
 */
import { type Socket, connect } from 'node:net'
import { abortable } from '#shared/abortable.ts'
import { RuntimeError, explain } from '#shared/errors.ts'
import type { VmmControl } from '../microvm/driver.ts'

/** Longest line accepted; the longest answer to what is asked here is a kilobyte. */
const LINE_BYTES_MAX = 64 * 1024
/** Calls without an answer. */
const PENDING_MAX = 16

interface Call {
  resolve(value: unknown): void
  reject(error: unknown): void
}

/** Errors: UNAVAILABLE when nothing listens or what answers is not QMP; the signal's reason. */
export async function connectQmp(path: string, signal: AbortSignal): Promise<VmmControl> {
  signal.throwIfAborted()
  const qmp = new Qmp(connect({ path }), path)
  try {
    await qmp.greeted(signal)
    await qmp.call('qmp_capabilities', signal)
  } catch (error) {
    qmp.close()
    throw error
  }
  return {
    async status(signal) {
      const status = field(await qmp.call('query-status', signal), 'status')
      if (typeof status !== 'string') throw new RuntimeError('UNAVAILABLE', `QMP ${path}: query-status answered no status`)
      return status
    },
    ending: () => qmp.ending,
    endedByGuest: () => qmp.endedByGuest,
    announced: qmp.announced,
    close: () => qmp.close(),
  }
}

class Qmp {
  /** Why the VM ended, of the first event that says so. */
  ending: string | undefined
  endedByGuest = false
  /** Resolves at the SHUTDOWN or STOP event: QEMU runs with -no-reboot and nobody resumes a VM, so the guest runs no more. */
  readonly announced: Promise<void>
  readonly #announce: () => void
  readonly #socket: Socket
  readonly #path: string
  readonly #calls = new Map<number, Call>()
  readonly #greeting = Promise.withResolvers<unknown>()
  #nextId = 1
  #partial = Buffer.alloc(0)
  #ended: RuntimeError | undefined

  constructor(socket: Socket, path: string) {
    this.#socket = socket
    this.#path = path
    const { promise, resolve } = Promise.withResolvers<void>()
    this.announced = promise
    this.#announce = resolve
    this.#greeting.promise.catch(() => {})
    socket
      .on('data', (chunk) => this.#receive(chunk))
      .on('error', (error) => this.#fail(explain(error), error))
      .on('close', () => this.#fail('the connection ended'))
  }

  greeted(signal: AbortSignal): Promise<unknown> {
    return abortable(this.#greeting.promise, signal)
  }

  call(execute: string, signal: AbortSignal): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    if (this.#calls.size >= PENDING_MAX) return Promise.reject(this.#error(`${PENDING_MAX} calls wait for an answer`))
    const id = this.#nextId++
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    this.#calls.set(id, { resolve, reject })
    this.#socket.write(`${JSON.stringify({ execute, id })}\n`)
    return abortable(promise, signal).finally(() => this.#calls.delete(id))
  }

  close(): void {
    this.#fail('closed')
    this.#socket.destroy()
  }

  #receive(chunk: Buffer): void {
    let rest = this.#partial.length === 0 ? chunk : Buffer.concat([this.#partial, chunk])
    for (let newline = rest.indexOf(0x0a); newline !== -1; newline = rest.indexOf(0x0a)) {
      const line = rest.toString('utf8', 0, newline)
      rest = rest.subarray(newline + 1)
      if (newline > LINE_BYTES_MAX || !this.#handle(line)) return this.#garbage(line)
    }
    if (rest.length > LINE_BYTES_MAX) return this.#garbage(rest.toString('utf8', 0, LINE_BYTES_MAX))
    this.#partial = Buffer.from(rest)
  }

  #handle(line: string): boolean {
    let message: unknown
    try {
      message = JSON.parse(line)
    } catch {
      return false
    }
    if (field(message, 'QMP') !== undefined) this.#greeting.resolve(message)
    else if (field(message, 'event') !== undefined) this.#event(message)
    else this.#answer(message)
    return true
  }

  #event(message: unknown): void {
    const name = field(message, 'event')
    const data = field(message, 'data')
    if (name === 'GUEST_PANICKED') this.ending = 'the guest kernel panicked'
    if (name === 'GUEST_PANICKED' || field(data, 'guest') === true) this.endedByGuest = true
    if (name === 'SHUTDOWN') this.ending ??= shutdownReason(field(data, 'reason'))
    else if (name === 'STOP') this.ending ??= 'its VM was paused, which QEMU does after an internal error'
    else return
    this.#announce()
  }

  #answer(message: unknown): void {
    const id = field(message, 'id')
    const call = typeof id === 'number' ? this.#calls.get(id) : undefined
    if (call === undefined) return
    const error = field(message, 'error')
    if (error === undefined) call.resolve(field(message, 'return'))
    else call.reject(this.#error(String(field(error, 'desc')).slice(0, 400)))
  }

  #garbage(line: string): void {
    this.#fail(`expected a line of QMP, got ${JSON.stringify(line.slice(0, 80))}`)
    this.#socket.destroy()
  }

  #fail(why: string, cause?: unknown): void {
    this.#ended ??= this.#error(why, cause)
    this.#greeting.reject(this.#ended)
    for (const call of this.#calls.values()) call.reject(this.#ended)
    this.#calls.clear()
  }

  #error(why: string, cause?: unknown): RuntimeError {
    return new RuntimeError('UNAVAILABLE', `QMP ${this.#path}: ${why}`, { cause })
  }
}

/** QEMU's ShutdownCause in words. Source: QEMU, qapi/run-state.json. */
function shutdownReason(reason: unknown): string {
  switch (reason) {
    case 'guest-shutdown':
      return 'the guest powered off'
    case 'guest-reset':
      return 'the guest reset itself (a kernel panic does)'
    case 'guest-panic':
      return 'the guest kernel panicked'
    case 'host-signal':
      return 'it was told to by a signal'
    default:
      return typeof reason === 'string' ? reason.slice(0, 80) : 'for no reason given'
  }
}

function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? Reflect.get(value, key) : undefined
}
