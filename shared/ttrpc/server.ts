/** The server: services with their handlers, for any number of connections. */
import type { Duplex } from 'node:stream'
import { RuntimeError } from '../errors.ts'
import { resolveLimits, type Limits } from './limits.ts'
import type { CallContext, CallKind, Handlers, MethodDefinition, Service, ServiceTypes } from './method.ts'
import { kindOf, type CallReport, type ServerOptions } from './options.ts'
import { ServerLink } from './server-link.ts'
import { splitPath } from './service.ts'
import type { TimeShare } from './time-share.ts'

/** A handler as the dispatcher sees it: one input, a message or a stream of them. */
export type AnyHandler = (input: unknown, context: CallContext) => unknown

/** A method that has a handler. */
export interface ServedMethod {
  readonly path: string
  readonly kind: CallKind
  readonly definition: MethodDefinition<unknown, unknown>
  readonly handler: AnyHandler
}

/** What every connection of a server shares. */
export interface ServerShared {
  readonly limits: Limits
  readonly readShare: TimeShare | undefined
  readonly services: ReadonlyMap<string, ReadonlyMap<string, ServedMethod>>
  readonly onCall: ((report: CallReport) => void) | undefined
  readonly onError: ((error: Error) => void) | undefined
  readonly onRefused: ((error: RuntimeError) => void) | undefined
}

/** A service with its handlers, made once (`ServedService.of`) for any number of servers. */
export class ServedService {
  /** `package.Service` */
  readonly name: string
  readonly #methods: ReadonlyMap<string, ServedMethod>

  private constructor(service: Service<ServiceTypes>, handlers: object) {
    for (const name of Object.keys(handlers)) {
      if (!Object.hasOwn(service.methods, name)) {
        const message = `${service.name} has no method ${name}, for which there is a handler`
        throw new RuntimeError('INVALID_ARGUMENT', message)
      }
    }
    const methods = new Map<string, ServedMethod>()
    for (const [name, definition] of Object.entries(service.methods)) {
      const { method } = splitPath(definition.path)
      const handler = handlerOf(handlers, name)
      if (handler === undefined) continue
      methods.set(method, { path: definition.path, kind: kindOf(definition), definition, handler })
    }
    this.name = service.name
    this.#methods = methods
  }

  /** @throws RuntimeError INVALID_ARGUMENT for a handler without a method */
  static of<T extends ServiceTypes>(service: Service<T>, handlers: Handlers<T>): ServedService {
    return new ServedService(service, handlers)
  }

  /** @internal */
  static methodsOf(served: ServedService): ReadonlyMap<string, ServedMethod> {
    return served.#methods
  }
}

/** Serves its services on every connection it is given. Listening is not its business: hand it each socket (`accept`). */
export class TtrpcServer implements AsyncDisposable {
  readonly #services = new Map<string, ReadonlyMap<string, ServedMethod>>()
  readonly #links = new Set<ServerLink>()
  readonly #shared: ServerShared
  #closed = false

  /** @throws RuntimeError INVALID_ARGUMENT for an option that there is not, or a limit that is no number */
  constructor(options: ServerOptions = {}) {
    const { onCall, onError, onRefused, readShare, ...limits } = options
    this.#shared = { limits: resolveLimits(limits), readShare, services: this.#services, onCall, onError, onRefused }
  }

  /**
   * Serves a service, on present and later connections.
   * @throws RuntimeError ALREADY_EXISTS for a service that is served, INVALID_ARGUMENT for a handler without a method
   */
  add<T extends ServiceTypes>(service: Service<T>, handlers: Handlers<T>): this {
    return this.serve(ServedService.of(service, handlers))
  }

  /** The same for a service that several servers share. */
  serve(served: ServedService): this {
    const { name } = served
    const methods = ServedService.methodsOf(served)
    if (this.#services.has(name)) throw new RuntimeError('ALREADY_EXISTS', `${name} is served already`)
    this.#services.set(name, methods)
    return this
  }

  /** Serves a connected socket until it ends. It is the server's from now on, which destroys it at the end. */
  accept(socket: Duplex): void {
    if (this.#closed) {
      socket.on('error', () => {})
      socket.destroy()
      return
    }
    const link = new ServerLink(socket, this.#shared, () => this.#links.delete(link))
    this.#links.add(link)
    link.start()
  }

  /** Connections being served. */
  get connections(): number {
    return this.#links.size
  }

  /**
   * Ends every call with UNAVAILABLE and, once the answers are written or `closeMsMax` has passed, every connection.
   * Listeners are their owner's to close.
   */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#links].map((link) => link.close()))
  }

  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

function handlerOf(handlers: object, name: string): AnyHandler | undefined {
  const handler: unknown = Reflect.get(handlers, name)
  if (typeof handler !== 'function') return undefined
  return (input, context) => Reflect.apply(handler, handlers, [input, context]) as unknown
}
