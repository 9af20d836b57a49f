/** Port-forward without a machine: the host's half and the guest's, joined by unix sockets in place of a vsock. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { Forwards } from '#guest/forward/forwards.ts'
import { createForwards, type ForwardCounts } from '#host/forward/forwards.ts'
import { silentLog } from '#shared/log.ts'
import { createFakeOs } from '#shared/os/fake.ts'

const netnsPath = '/run/netns/pod'

export interface ForwardWorld {
  /** What containerd does: dials `localhost:port` inside the pod's namespace. */
  dial(port: number): Promise<Socket>
  /** Connections to the guest that are open. */
  readonly carriers: ReadonlySet<Socket>
  /** The sandboxer's ends of them, in the order they were dialled, closed ones too. */
  readonly ends: readonly Socket[]
  /** The sandboxer's */
  readonly counts: () => ForwardCounts
  close(): void
}

/** @param guest in place of the agent's service */
export async function forwardWorld(t: Test, guest?: (carrier: Socket) => void): Promise<ForwardWorld> {
  const forwards = new Forwards(silentLog)
  const dir = await mkdtemp(join(tmpdir(), 'kuasar-forward-'))
  const path = join(dir, 'vsock')
  const carriers = new Set<Socket>()
  const agent = createServer((carrier) => {
    carriers.add(carrier)
    carrier.on('error', () => {}).once('close', () => carriers.delete(carrier))
    if (guest === undefined) forwards.accept(carrier)
    else guest(carrier)
  })
  agent.listen(path)
  await once(agent, 'listening')
  const os = createFakeOs()
  const ends: Socket[] = []
  const dial = async (_: number, signal: AbortSignal) => {
    const carrier = connect({ path })
    carrier.on('error', () => {})
    await once(carrier, 'connect', { signal })
    ends.push(carrier)
    return carrier.pause()
  }
  const host = createForwards(os.localhost)
  const opened = await host.open({ netnsPath, dial, log: silentLog })
  const close = () => opened[Symbol.dispose]()
  t.teardown(async () => {
    close()
    for (const carrier of carriers) carrier.destroy()
    agent.close()
    await os[Symbol.asyncDispose]()
    await rm(dir, { recursive: true })
  })
  return { dial: (port) => os.localhost.connect(netnsPath, port), carriers, ends, counts: () => host.counts(), close }
}

/** A server of the pod's. Answers its port; its connections may be half-open. */
export async function serve(t: Test, onConnection: (socket: Socket) => void, host = '127.0.0.1'): Promise<number> {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).once('close', () => sockets.delete(socket))
    onConnection(socket)
  })
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  for (;;) {
    const port = await listen(server, 0, host)
    if (host !== '::1' || (await nobodyOn(port))) return port
    await new Promise((resolve) => server.close(resolve))
  }
}

async function listen(server: Server, port: number, host: string): Promise<number> {
  server.listen(port, host)
  await once(server, 'listening')
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('a listening server has no address')
  return address.port
}

/** Another process may have a port of ::1 on 127.0.0.1, where a forward looks first. */
async function nobodyOn(port: number): Promise<boolean> {
  const other = createServer()
  try {
    await listen(other, port, '127.0.0.1')
    return true
  } catch {
    return false
  } finally {
    other.close()
  }
}

/** Goes on with `act` until what `moves` tells has come to a stop: it does not move for as long as it moves otherwise. */
export async function stopped(moves: () => number, act: () => void): Promise<void> {
  for (let before = -1; moves() !== before; ) {
    before = moves()
    for (const until = performance.now() + 300; performance.now() < until; await sleep(1)) act()
  }
}

/** Nothing is left of any forward. */
export async function gone(carriers: ReadonlySet<Socket>): Promise<void> {
  for (let i = 0; carriers.size > 0; i++) {
    if (i === 1000) throw new Error(`${carriers.size} connections to the guest are left`)
    await sleep(10)
  }
}
