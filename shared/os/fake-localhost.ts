/** The localhost of namespaces that exist in memory: TCP connections are real, ports are only said. */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { Localhost, LocalhostListener } from './contract.ts'
import { OsError } from './error.ts'

interface Listening {
  /** Where it really listens, on 127.0.0.1. */
  readonly port: number
  /** A connection from this port of the client's was dialled to that one. */
  dialled(from: number, port: number): void
}

export class FakeLocalhosts implements Localhost {
  readonly #listening = new Map<string, Listening>()

  async listen(netnsPath: string, onConnection: (socket: Socket, port: number) => void): Promise<LocalhostListener> {
    const ports = new Map<number, number>()
    const sockets = new Map<number, Socket>()
    // Client and server learn of a connection in any order.
    const meet = (from: number) => {
      const [socket, port] = [sockets.get(from), ports.get(from)]
      if (socket === undefined || port === undefined) return
      sockets.delete(from)
      ports.delete(from)
      onConnection(socket, port)
    }
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
      const from = socket.remotePort ?? 0
      sockets.set(from, socket)
      meet(from)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    this.#listening.set(netnsPath, {
      port: typeof address === 'object' && address !== null ? address.port : 0,
      dialled(from, port) {
        ports.set(from, port)
        meet(from)
      },
    })
    const close = () => {
      this.#listening.delete(netnsPath)
      server.close()
    }
    return { close, [Symbol.dispose]: close }
  }

  /** Plays a program inside `netnsPath` that dials `localhost:port`. Errors: ECONNREFUSED when nobody has its localhost. */
  async connect(netnsPath: string, port: number): Promise<Socket> {
    const listening = this.#listening.get(netnsPath)
    if (listening === undefined) throw new OsError('ECONNREFUSED', 'connect', `connect to localhost:${port} of ${netnsPath} (ECONNREFUSED)`)
    const socket = connect({ port: listening.port, host: '127.0.0.1', allowHalfOpen: true })
    await once(socket, 'connect')
    listening.dialled(socket.localPort ?? 0, port)
    return socket
  }
}
