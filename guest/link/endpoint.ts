/** How the agent is reached and reaches its sandboxer: AF_VSOCK in a VM, a hybrid vsock's unix socket outside one. */
import { existsSync, unlinkSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import { isDigits } from '#shared/digits.ts'
import { RuntimeError } from '#shared/errors.ts'
import { CID_HOST, type Os, VSOCK_WRITE_BYTES_MAX } from '#shared/os/contract.ts'
import { acceptHybrid } from './hybrid.ts'

export type Endpoint = { readonly kind: 'vsock'; readonly port: number } | { readonly kind: 'unix'; readonly path: string }

/** "vsock:1024" or "unix:/path". */
export function parseEndpoint(text: string): Endpoint {
  const colon = text.indexOf(':')
  const kind = text.slice(0, Math.max(0, colon))
  const rest = text.slice(colon + 1)
  if (kind === 'vsock' && isDigits(rest, 9)) return { kind, port: Number(rest) }
  if (kind === 'unix' && rest.startsWith('/')) return { kind, path: rest }
  throw new RuntimeError('INVALID_ARGUMENT', `endpoint ${JSON.stringify(text)}: expected "vsock:PORT" or "unix:/PATH"`)
}

/** The largest single write a connection there may see. */
export function writeBytesMax(endpoint: Endpoint): number {
  return endpoint.kind === 'vsock' ? VSOCK_WRITE_BYTES_MAX : Number.POSITIVE_INFINITY
}

/** A connection to the sandboxer. */
export async function dial(endpoint: Endpoint, os: Os): Promise<Socket> {
  if (endpoint.kind === 'vsock') return await os.vsock.connect({ cid: CID_HOST, port: endpoint.port })
  const socket = connect(endpoint.path)
  await once(socket, 'connect')
  return socket
}

/** Accepts connections for as long as the agent lives. */
export async function listen(endpoint: Endpoint, os: Os, onConnection: (socket: Socket) => void): Promise<AsyncDisposable> {
  if (endpoint.kind === 'vsock') {
    return await os.vsock.listen(endpoint.port, (socket, peer) => {
      // A container of the pod could dial its own VM; only the host may command the agent.
      if (peer.cid === CID_HOST) onConnection(socket)
      else socket.destroy()
    })
  }
  const server = createServer((socket) => acceptHybrid(socket, onConnection))
  if (existsSync(endpoint.path)) unlinkSync(endpoint.path)
  server.listen(endpoint.path)
  await once(server, 'listening')
  return server
}
