/** A guest without a machine: it speaks both protocols as an agent does, and runs nothing. */
import { appendFile, rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { explain, hasCode } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'
import type { Rpc, ServiceTypesOf } from '#shared/rpc/services.ts'
import { TtrpcClient } from '#shared/ttrpc/client.ts'
import type { Calls, Handlers } from '#shared/ttrpc/method.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'
import type { Failure } from './config.ts'
import { FakeTasks } from './tasks.ts'

/** Between two tries to reach a sandboxer that is away, in ms. */
const REDIAL_MS = 250

export interface FakeGuestOptions {
  readonly rpc: Rpc
  readonly linkSocket: string
  /** Where Task, Streaming and the agent's own service listen */
  readonly taskSocket: string
  readonly console: string
  readonly failure: Failure | undefined
  /** The guest powered off, or died as it was asked to */
  readonly onExit: (reason: string) => void
}

export class FakeGuest {
  readonly #options: FakeGuestOptions
  readonly #tasks: FakeTasks
  readonly #server: TtrpcServer
  readonly #listener: Server
  readonly #sockets = new Set<Socket>()
  readonly #ended = new AbortController()
  /** Hello was answered. */
  #configured = false
  /** Ready was answered. */
  #ready = false
  #host: { readonly socket: Socket; readonly calls: Calls<ServiceTypesOf<'host'>> } | undefined

  constructor(options: FakeGuestOptions) {
    this.#options = options
    this.#tasks = new FakeTasks(
      {
        prepare: async (containerId, signal) => void (await this.#calls().Prepare({ containerId }, { signal })),
        release: async (containerId) => void (await this.#calls().Release({ containerId })),
      },
      options.rpc,
    )
    this.#server = new TtrpcServer()
      .add(options.rpc.task, this.#tasks.task)
      .add(options.rpc.streaming, this.#tasks.streaming)
      .add(options.rpc.agent, this.#agent())
    this.#listener = createServer((socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
      this.#server.accept(socket)
    })
  }

  /** Listens, then links up; the link is made again whenever it is lost. */
  async boot(): Promise<void> {
    const { taskSocket, failure } = this.#options
    await this.#print('fake guest: booting')
    await rm(taskSocket, { force: true })
    if (this.#ended.signal.aborted) return
    await new Promise<void>((resolve, reject) => this.#listener.once('error', reject).once('close', resolve).listen(taskSocket, resolve))
    if (this.#ended.signal.aborted) return
    if (failure === 'hello') return this.#print('fake guest: will not say hello')
    // A sandboxer that goes before it has answered, as one may to a warm guest, has a successor.
    while (!(await this.#greeted()) && !this.#ended.signal.aborted) await sleep(REDIAL_MS, undefined, { signal: this.#ended.signal }).catch(() => {})
    void this.#keepLinked()
  }

  close(): void {
    if (this.#ended.signal.aborted) return
    this.#ended.abort()
    this.#tasks.close()
    this.#host?.socket.destroy()
    for (const socket of this.#sockets) socket.destroy()
    this.#listener.close()
  }

  /** False when nobody was there to answer. */
  async #greeted(): Promise<boolean> {
    try {
      await this.#link()
      return true
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE') || isErrno(error, 'ECONNREFUSED') || isErrno(error, 'ENOENT')) return false
      throw error
    }
  }

  async #link(): Promise<void> {
    const { linkSocket, rpc, failure } = this.#options
    const socket = connect({ path: linkSocket })
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    const calls = new TtrpcClient(socket).calls(rpc.host)
    this.#host = { socket, calls }
    const bootedAt = process.hrtime.bigint()
    await calls.Hello({
      protocolVersion: 1,
      agentVersion: 'fake',
      kernelVersion: 'none',
      resumed: this.#configured,
      boot: this.#configured ? [] : [{ name: 'init', boottimeNanos: String(bootedAt) }],
      boottimeNanos: String(process.hrtime.bigint()),
    })
    if (this.#ready) return
    if (!this.#configured) await this.#print('fake guest: hello')
    this.#configured = true
    if (failure === 'exit') return this.#exit('the fake guest ended, as its pod asked')
    if (failure === 'ready') return this.#print('fake guest: will not get ready')
    await calls.Ready({ boottimeNanos: String(process.hrtime.bigint()) })
    this.#ready = true
  }

  async #keepLinked(): Promise<void> {
    while (!this.#ended.signal.aborted) {
      const socket = this.#host?.socket
      if (socket !== undefined && !socket.destroyed) await new Promise((resolve) => socket.once('close', resolve))
      if (this.#ended.signal.aborted) return
      await this.#link().catch((error: unknown) => this.#print(`fake guest: link: ${explain(error)}`))
      if (this.#host?.socket.destroyed !== false) await sleep(REDIAL_MS, undefined, { signal: this.#ended.signal }).catch(() => {})
    }
  }

  #agent(): Handlers<ServiceTypesOf<'agent'>> {
    return {
      Ping: () => ({ agentVersion: 'fake', boottimeNanos: String(process.hrtime.bigint()) }),
      Tasks: () => ({ tasks: this.#tasks.list().map((task) => ({ ...task, execCount: 0 })) }),
      Purge: async ({ containerId }) => {
        await this.#tasks.purge(containerId)
        return {}
      },
      Stats: () => ({ metrics: this.#tasks.metrics(), realtimeNanos: String(BigInt(Date.now()) * 1_000_000n) }),
      SyncClock: () => ({ offsetNanos: '0' }),
      Shutdown: async (_, { signal }) => {
        if (this.#options.failure === 'shutdown') await new Promise((resolve) => signal.addEventListener('abort', resolve))
        // After the answer is on its way.
        setImmediate(() => this.#exit('the guest powered off'))
        return {}
      },
    }
  }

  #exit(reason: string): void {
    this.close()
    this.#options.onExit(reason)
  }

  #calls(): Calls<ServiceTypesOf<'host'>> {
    if (this.#host === undefined) throw new Error('the link to the host is down')
    return this.#host.calls
  }

  async #print(line: string): Promise<void> {
    // Its directory goes with the sandbox.
    await appendFile(this.#options.console, `${line}\n`).catch(() => {})
  }
}
