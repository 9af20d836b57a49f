/** A vsock between fake machines of one process: each listener is a unix socket in a directory of the network. */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CID_ANY, type Vsock, type VsockAddress, type VsockConnectOptions, type VsockListener } from './contract.ts'
import { OsError } from './error.ts'

type OnConnection = (socket: Socket, peer: VsockAddress) => void

interface Listening {
  readonly server: Server
  readonly path: string
  /** Who dialled, in the order the kernel will hand out the connections. */
  readonly dialling: VsockAddress[]
}

/** Ephemeral ports start here, as in the kernel (LAST_RESERVED_PORT + 1). */
const FIRST_EPHEMERAL_PORT = 1024

export class FakeVsockNetwork implements AsyncDisposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'kuasar-vsock-'))
  readonly #listening = new Map<string, Listening>()
  readonly #sockets = new Set<Socket>()
  #nextPort = FIRST_EPHEMERAL_PORT

  /** The vsock of the machine with this CID. */
  machine(cid: number): Vsock {
    return {
      localCid: () => cid,
      connect: (address, options) => this.#connect(cid, address, options),
      listen: (port, onConnection) => this.#listen({ cid, port }, onConnection),
    }
  }

  async #connect(cid: number, address: VsockAddress, { signal }: VsockConnectOptions = {}): Promise<Socket> {
    signal?.throwIfAborted()
    const listening = this.#listening.get(key(address))
    const text = `connect to vsock ${address.cid}:${address.port}`
    if (listening === undefined) throw new OsError('ECONNRESET', 'connect', `${text}: nobody listens (ECONNRESET)`)
    const socket = this.#track(connect(listening.path))
    listening.dialling.push({ cid, port: this.#nextPort++ })
    try {
      await once(socket, 'connect', { signal })
    } catch (error) {
      socket.destroy()
      throw error
    }
    return socket
  }

  async #listen(address: VsockAddress, onConnection: OnConnection): Promise<VsockListener> {
    const name = key(address)
    if (this.#listening.has(name)) throw new OsError('EADDRINUSE', 'bind', `listen on vsock port ${address.port}: in use (EADDRINUSE)`)
    const path = join(this.#directory, name.replace(':', '_'))
    const dialling: VsockAddress[] = []
    const server = createServer((socket) => {
      const peer = dialling.shift()
      if (peer !== undefined) onConnection(this.#track(socket), peer)
    })
    this.#listening.set(name, { server, path, dialling })
    server.listen(path)
    await once(server, 'listening')
    const close = async () => {
      if (!this.#listening.delete(name)) return
      // Not awaited: a server is closed only when its connections are, and those outlive the listener here.
      server.close()
    }
    return { address: { cid: CID_ANY, port: address.port }, close, [Symbol.asyncDispose]: close }
  }

  #track(socket: Socket): Socket {
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
    // As the real one: no half-close.
    socket.once('finish', () => socket.destroy())
    return socket
  }

  /** Ends every listener and connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { server } of this.#listening.values()) server.close()
    this.#listening.clear()
    for (const socket of this.#sockets) socket.destroy()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

function key({ cid, port }: VsockAddress): string {
  return `${cid}:${port}`
}
