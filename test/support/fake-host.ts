/** A sandboxer reduced to what the agent calls: it hands out specs and remembers what it was told. */
import { once } from 'node:events'
import { existsSync, unlinkSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { RuntimeError } from '#shared/errors.ts'
import { GUEST_MESSAGE_BYTES_MAX } from '#shared/link-limits.ts'
import type { MessageIn, MessageOut } from '#shared/rpc/any.ts'
import { TtrpcServer } from '#shared/ttrpc/server.ts'
import { rpc } from './task-client.ts'

type Prepared = MessageIn<'kuasar.host.v1.PrepareResponse'>
export type Prepare = (containerId: string) => Prepared | Promise<Prepared>

export class FakeHost implements AsyncDisposable {
  readonly hellos: MessageOut<'kuasar.host.v1.HelloRequest'>[] = []
  readonly released: string[] = []
  readonly events: { readonly sequence: number; readonly topic: string; readonly event: MessageOut<'google.protobuf.Any'> | null; readonly crun: MessageOut<'kuasar.host.v1.CrunTime'> | null }[] = []
  readonly logs: string[] = []
  /** Calls of Publish that were taken. */
  publishes = 0
  ready = 0
  /** Replace to answer otherwise. */
  hello: MessageIn<'kuasar.host.v1.HelloResponse'> = { protocolVersion: 1, sandboxId: 'sandbox', hostname: 'pod', eventsPerPublish: 64 }
  prepare: Prepare
  /** Set to do something before Ready is answered. */
  beforeReadyAnswer: (() => Promise<void>) | undefined
  /** Set to make Publish fail. */
  refusePublish = false
  readonly #path: string
  #listener: Server | undefined
  #server: TtrpcServer | undefined
  #waiting: (() => void)[] = []

  constructor(path: string, prepare: Prepare) {
    this.#path = path
    this.prepare = prepare
  }

  /** Listens; also again after `stop`, as a restarted sandboxer does. */
  async start(): Promise<void> {
    const server = new TtrpcServer({ receivedFrameBytesMax: GUEST_MESSAGE_BYTES_MAX }).add(rpc.host, {
      Hello: (request) => {
        this.hellos.push(request)
        this.#wake()
        return this.hello
      },
      Ready: async () => {
        this.ready++
        this.#wake()
        await this.beforeReadyAnswer?.()
        return {}
      },
      Prepare: ({ containerId }) => this.prepare(containerId),
      Release: ({ containerId }) => {
        this.released.push(containerId)
        this.#wake()
        return {}
      },
      Publish: (request) => {
        if (this.refusePublish) throw new RuntimeError('UNAVAILABLE', 'containerd is away')
        this.publishes++
        for (const { sequence, topic, event, crun } of [request, ...request.more]) this.events.push({ sequence: Number(sequence), topic, event, crun })
        this.#wake()
        return {}
      },
      Log: ({ records }) => {
        this.logs.push(...records.map(({ message }) => message))
        this.#wake()
        return {}
      },
    })
    if (existsSync(this.#path)) unlinkSync(this.#path)
    const listener = createServer((socket) => server.accept(socket))
    listener.listen(this.#path)
    await once(listener, 'listening')
    this.#server = server
    this.#listener = listener
  }

  async stop(): Promise<void> {
    this.#listener?.close()
    await this.#server?.close()
  }

  /** Resolves once `condition` holds; it is looked at whenever the agent calls. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#waiting.push(resolve)
      await promise
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
