/**
 * The node's end of bench/network.ts, run inside the node. Prints how many milliseconds an exchange took.
 *
 *   network-client.ts sink ADDRESS MIB     sends so much, and waits until the pod says that it read all of it
 *   network-client.ts source ADDRESS MIB   reads so much
 *   network-client.ts echo ADDRESS COUNT   sends a byte and waits for it, so many times
 */
import { once } from 'node:events'
import { type Socket, connect } from 'node:net'
import { text } from 'node:stream/consumers'

/** Of the pod. */
export const ports = { echo: 7001, source: 7002, sink: 7003 } as const

const MIB = 1024 * 1024

async function sink(socket: Socket, mib: number): Promise<void> {
  const block = Buffer.alloc(MIB)
  // By dd, once it has read to the end: whole MiB, and what was left of one.
  const said = text(socket)
  for (let sent = 0; sent < mib; sent++) if (!socket.write(block)) await once(socket, 'drain')
  socket.end()
  const [, whole = 'nothing', rest = ''] = /^(\d+)\+(\d+) records in$/m.exec(await said) ?? []
  if (Number(whole) !== mib || Number(rest) !== 0) throw new Error(`the pod read ${whole}+${rest} MiB, not ${mib}+0`)
}

async function source(socket: Socket, mib: number): Promise<void> {
  let bytes = 0
  for await (const chunk of socket) bytes += Buffer.byteLength(chunk)
  if (bytes !== mib * MIB) throw new Error(`the pod sent ${bytes} bytes, not ${mib * MIB}`)
}

async function echo(socket: Socket, count: number): Promise<void> {
  socket.setNoDelay(true)
  for (let done = 0; done < count; done++) {
    socket.write('x')
    await once(socket, 'data')
  }
  socket.destroy()
}

const exchanges = { sink, source, echo }
const isExchange = (what: string): what is keyof typeof exchanges => Object.hasOwn(exchanges, what)

if (import.meta.main) {
  const [what = '', address = '', count = ''] = process.argv.slice(2)
  if (!isExchange(what)) throw new Error(`${what}: expected one of ${Object.keys(exchanges).join(', ')}`)
  const socket = connect(ports[what], address)
  await once(socket, 'connect')
  const startMs = performance.now()
  await exchanges[what](socket, Number(count))
  process.stdout.write(`${performance.now() - startMs}\n`)
}
