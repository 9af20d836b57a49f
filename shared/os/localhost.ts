/** Localhost of a network namespace as one listener: ordinary TCP sockets, each with the port that was dialled. */
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import type { Addon } from './addon.ts'
import type { Localhost, LocalhostListener } from './contract.ts'
import { attempt } from './error.ts'

/** Connections the kernel may hold for us to accept; it caps them at net.core.somaxconn (4096). */
const LOCALHOST_BACKLOG = 1024

export function createLocalhost(addon: () => Addon): Localhost {
  return { listen: (netnsPath, onConnection) => listen(addon(), netnsPath, onConnection) }
}

async function listen(addon: Addon, netnsPath: string, onConnection: (socket: Socket, port: number) => void): Promise<LocalhostListener> {
  const [fd, attachment] = attempt(`listen on the localhost of ${netnsPath}`, () => addon.localhostListen(netnsPath))
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
    // A connection that was reset before it was accepted has no addresses any more.
    if (socket.localPort === undefined) socket.destroy()
    else onConnection(socket, socket.localPort)
  })
  let open = true
  const close = () => {
    if (!open) return
    open = false
    closeSync(attachment)
    server.close()
  }
  try {
    server.listen({ fd, backlog: LOCALHOST_BACKLOG })
    await once(server, 'listening')
  } catch (error) {
    close()
    throw error
  }
  // Nothing but a connection that could not be accepted: the kernel ends it, and its client knows.
  server.on('error', () => {})
  return { close, [Symbol.dispose]: close }
}
