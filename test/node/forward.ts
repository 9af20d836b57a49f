/** A port on the outer machine's loopback that leads to a port on a node's: namespaces keep the two apart. */

import { spawn } from 'node:child_process'
import { createServer, type AddressInfo } from 'node:net'
import { enterCommand, type Entrance } from './enter.ts'

export interface Forward {
  /** On 127.0.0.1 of the outer machine. */
  readonly port: number
  close(): void
}

/** Every connection gets a netcat of its own inside. Does not keep the process alive. */
export async function forwardPort(entrance: Entrance, port: number): Promise<Forward> {
  const { file, args } = enterCommand(entrance, 'busybox', ['nc', '127.0.0.1', String(port)])
  const server = createServer((socket) => {
    const netcat = spawn(file, args, { stdio: ['pipe', 'pipe', 'ignore'] })
    socket.pipe(netcat.stdin)
    netcat.stdout.pipe(socket)
    socket.once('close', () => netcat.kill('SIGKILL'))
    netcat.once('exit', () => socket.end())
    // Either side may be gone while the other still writes; the ends above tell both.
    for (const stream of [socket, netcat.stdin, netcat.stdout, netcat]) stream.on('error', () => socket.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  server.unref()
  const address = server.address()
  if (!isAddress(address)) throw new Error('a listening server has no address')
  return { port: address.port, close: () => server.close() }
}

function isAddress(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === 'object' && address !== null
}
