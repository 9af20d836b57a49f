/** Calling gRPC services over a unix socket, with the types and errors of ttrpc's calls. */
import { Client, credentials, Metadata, type ClientOptions, type ServiceError } from '@grpc/grpc-js'
import { asRuntimeError, RuntimeError } from '../errors.ts'
import type { CallOptions, Calls, MethodDefinition, MethodTypes, Service } from '../ttrpc/method.ts'
import { kindOf } from './definition.ts'
import { fromGrpcError } from './grpc-status.ts'

/** Bytes of one message; containerd's own limit is the same. */
export const messageBytesMax = 16 * 1024 * 1024

/** Services whose calls this carries: nothing of ours streams a request over gRPC. */
export type GrpcTypes = Record<string, MethodTypes & { readonly kind: 'unary' | 'server-stream' }>

export interface GrpcConnection extends Disposable {
  /** The calls of one service. All services of a connection share its socket. */
  calls<T extends GrpcTypes>(service: Service<T>): Calls<T>
  /** Fails the calls in flight as CANCELLED or UNAVAILABLE. */
  close(): void
}

export interface GrpcConnectOptions {
  /** Sent as `containerd-namespace`, which every service of containerd but CRI wants. */
  readonly namespace?: string
}

/**
 * A connection that is made on the first call and again after a loss. A call made while nobody listens fails at once
 * as UNAVAILABLE: waiting is the caller's decision.
 */
export function connectGrpc(socketPath: string, { namespace }: GrpcConnectOptions = {}): GrpcConnection {
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), clientOptions)
  const base = namespace === undefined ? {} : { 'containerd-namespace': [namespace] }
  const close = () => client.close()
  return {
    calls: <T extends GrpcTypes>(service: Service<T>) => callsOf(client, service, base),
    close,
    [Symbol.dispose]: close,
  }
}

const clientOptions: ClientOptions = {
  'grpc.max_receive_message_length': messageBytesMax,
  // grpc-js starts at 1 s and goes to 120 s; a restarted containerd is back within one.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  // Every connection its own socket: closing one must not depend on another of the same address.
  'grpc.use_local_subchannel_pool': 1,
}

function callsOf<T extends GrpcTypes>(client: Client, service: Service<T>, base: Headers): Calls<T>
function callsOf(client: Client, service: Service<GrpcTypes>, base: Headers): object {
  const calls = Object.entries(service.methods).map(([name, method]) => {
    const start = { client, method, base, name: `${service.name}/${name}` }
    const kind = kindOf(method)
    if (kind === 'unary') return [name, (request: unknown, options?: CallOptions) => unary(start, request, options)]
    if (kind === 'server-stream') return [name, (request: unknown, options?: CallOptions) => stream(start, request, options)]
    throw new RuntimeError('INTERNAL', `${start.name} streams its request; ttrpc carries such calls, this gRPC client does not`)
  })
  return Object.fromEntries(calls)
}

type Headers = NonNullable<CallOptions['metadata']>

interface Start {
  readonly client: Client
  readonly method: MethodDefinition<unknown, unknown>
  readonly base: Headers
  /** For errors. */
  readonly name: string
}

function unary({ client, method, base, name }: Start, request: unknown, options: CallOptions = {}): Promise<unknown> {
  const { signal } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(asRuntimeError(signal.reason))
    const { requestSerialize, responseDeserialize } = method
    const [metadata, limits] = [metadataOf(base, options), limitsOf(options)]
    const call = client.makeUnaryRequest(method.path, requestSerialize, responseDeserialize, request, metadata, limits, (error, value) => {
      signal?.removeEventListener('abort', abort)
      if (error === null) resolve(value)
      else reject(signal?.aborted === true ? asRuntimeError(signal.reason) : fromGrpcError(error, name))
    })
    const abort = () => call.cancel()
    signal?.addEventListener('abort', abort, { once: true })
  })
}

/** The call starts now, not at the first read: what happens after a Subscribe returned is in its stream. */
function stream({ client, method, base, name }: Start, request: unknown, options: CallOptions = {}): AsyncIterable<unknown> {
  const { signal } = options
  if (signal?.aborted === true) throw asRuntimeError(signal.reason)
  const { requestSerialize, responseDeserialize } = method
  const [metadata, limits] = [metadataOf(base, options), limitsOf(options)]
  const call = client.makeServerStreamRequest(method.path, requestSerialize, responseDeserialize, request, metadata, limits)
  // grpc-js ends the stream first and emits the error after: a reader that comes later would see a clean end.
  let failure: ServiceError | undefined
  call.on('error', (error: ServiceError) => {
    failure ??= error
  })
  const abort = () => call.cancel()
  signal?.addEventListener('abort', abort, { once: true })
  call.once('close', () => signal?.removeEventListener('abort', abort))
  const thrown = () => {
    if (signal?.aborted === true) return asRuntimeError(signal.reason)
    return failure === undefined ? undefined : fromGrpcError(failure, name)
  }
  return (async function* read() {
    try {
      yield* call
    } catch (error) {
      throw thrown() ?? asRuntimeError(error)
    } finally {
      call.cancel()
    }
    const error = thrown()
    if (error !== undefined) throw error
  })()
}

function metadataOf(base: Headers, { metadata = {} }: CallOptions): Metadata {
  const headers = new Metadata()
  for (const [key, values] of [...Object.entries(base), ...Object.entries(metadata)]) {
    for (const value of values) headers.add(key, value)
  }
  return headers
}

function limitsOf({ timeoutMs }: CallOptions): { deadline?: number } {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs }
}
