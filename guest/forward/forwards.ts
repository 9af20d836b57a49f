/**
 * Forwarded TCP connections, as the sandboxer opens them: a port, an answer, then bytes both ways (the wire is drawn in
 * shared/forward/frame.ts). Ports are those of the pod's localhost, which is the VM's.
 */
import { once } from 'node:events'
import { connect, Socket } from 'node:net'
import { explain, RuntimeError } from '#shared/errors.ts'
import type { Log } from '#shared/log.ts'
import { isErrno } from '#shared/os/error.ts'
import { answers, PORT_BYTES } from '#shared/forward/frame.ts'
import { readExactly } from '#shared/forward/read.ts'
import { splice } from '#shared/forward/splice.ts'

/** The sandboxer opens no more for one pod; a connection above it is closed. */
export const FORWARDS_MAX = 1024

/** What the sandboxer gets to name a port, and to close what it was refused, in ms. */
const OPEN_MS_MAX = 10_000

/** For one address, in ms. Loopback answers at once, unless a server's queue is full. */
const CONNECT_MS_MAX = 5_000

/** Servers may listen on one of them alone. A server of the pod's address is not at its localhost, here as anywhere. */
const localhost = ['127.0.0.1', '::1']

/** Those of one agent. */
export class Forwards {
  readonly #log: Log
  readonly #open = new Set<Socket>()

  constructor(log: Log) {
    this.#log = log
  }

  accept(carrier: Socket): void {
    if (this.#open.size >= FORWARDS_MAX) {
      this.#log.warn('too many forwards', { open: this.#open.size })
      carrier.destroy()
      return
    }
    this.#open.add(carrier)
    serve(carrier)
      .catch((error: unknown) => this.#log.debug('a forward ended', { error: explain(error) }))
      .finally(() => {
        carrier.destroy()
        this.#open.delete(carrier)
      })
  }

  /** Ends them all: their other ends went with the sandboxer that had opened them, and not each of them hears of that. */
  reset(): void {
    for (const carrier of this.#open) carrier.destroy()
  }
}

async function serve(carrier: Socket): Promise<void> {
  // Between two owners an error shall not go unheard, which would end the agent.
  carrier.on('error', () => {})
  const port = (await readExactly(carrier, PORT_BYTES, AbortSignal.timeout(OPEN_MS_MAX))).readUInt16BE()
  const dialled = await dialLocalhost(port)
  if (dialled instanceof Socket) {
    carrier.write(Buffer.of(answers.connected))
    return splice(dialled, carrier, 'guest', close)
  }
  carrier.resume().end(Buffer.of(dialled))
  await once(carrier, 'close', { signal: AbortSignal.timeout(OPEN_MS_MAX) })
}

function close(carrier: Socket): void {
  carrier.destroy()
}

/** A connection, or what the sandboxer is answered in place of one. */
async function dialLocalhost(port: number): Promise<Socket | number> {
  let answer: number = answers.refused
  for (const host of localhost) {
    try {
      return await dial(host, port)
    } catch (error) {
      // A pod may be without IPv6.
      if (!isErrno(error, 'ECONNREFUSED') && !isErrno(error, 'EADDRNOTAVAIL')) answer = answers.unreachable
    }
  }
  return answer
}

async function dial(host: string, port: number): Promise<Socket> {
  const socket = connect({ host, port, allowHalfOpen: true })
  const timer = setTimeout(() => socket.destroy(new RuntimeError('DEADLINE_EXCEEDED', `no answer from ${host}:${port}`)), CONNECT_MS_MAX)
  try {
    await once(socket, 'connect')
    socket.on('error', () => {})
    return socket.pause()
  } finally {
    clearTimeout(timer)
  }
}
