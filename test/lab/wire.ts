/**
 * How a lab is driven, over vsock. One connection is one request, a line of JSON:
 *
 *   → {"run": {"argv": ["uname", "-r"], "input": ""}}\n    ← {"stdout": "…", "stderr": "…", "exitCode": 0}\n
 *   → {"connect": {"path": "/run/x.sock"}}\n               then the connection is that socket's
 *
 * Output travels as base64. Both halves are ours, and the machine is ours too: nothing here is hostile.
 */
import type { Socket } from 'node:net'

/** Where the lab listens. */
export const LAB_PORT = 1024
/** The lab connects to this port of the host when it is up. */
export const READY_PORT = 1025

/** Longest request or answer. */
export const LINE_BYTES_MAX = 64 * 1024 * 1024

export interface RunRequest {
  readonly argv: readonly string[]
  /** Standard input, as text */
  readonly input: string
}

export type Request = { readonly run: RunRequest } | { readonly connect: { readonly path: string } }

export interface RunAnswer {
  readonly stdout: string
  readonly stderr: string
  /** 128 + n for a death by signal n */
  readonly exitCode: number
}

/** Reads up to a newline; what follows it goes back into the socket, which is left paused. */
export function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    const onData = (chunk: Buffer) => {
      const newline = chunk.indexOf(0x0a)
      bytes += chunk.length
      chunks.push(newline === -1 ? chunk : chunk.subarray(0, newline))
      if (bytes > LINE_BYTES_MAX) return settle(() => reject(new Error(`a line of more than ${LINE_BYTES_MAX} bytes`)))
      if (newline === -1) return
      settle(() => resolve(Buffer.concat(chunks).toString()))
      if (newline + 1 < chunk.length) socket.unshift(chunk.subarray(newline + 1))
    }
    const onEnd = () => settle(() => reject(new Error(`the connection ended after ${bytes} bytes of a line`)))
    const settle = (then: () => void) => {
      socket.pause()
      socket.off('data', onData).off('end', onEnd).off('close', onEnd)
      then()
    }
    socket.on('data', onData).once('end', onEnd).once('close', onEnd)
    socket.on('error', () => {})
    // Listening alone does not start a socket that was paused.
    socket.resume()
  })
}

/** Joins two connections until one of them ends. */
export function relay(one: Socket, other: Socket): void {
  for (const [from, to] of [[one, other], [other, one]] as const) {
    from.pipe(to)
    from.on('error', () => to.destroy()).once('close', () => to.destroy())
  }
}
