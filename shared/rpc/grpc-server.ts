/** Serving gRPC on a unix socket, with the handlers of ttrpc. */
import { once } from 'node:events'
import { chmod, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import {
  Server,
  ServerCredentials,
  type Metadata,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { asRuntimeError, explain, RuntimeError, type StatusName } from '../errors.ts'
import type { CallContext, CallKind, Handlers, Service } from '../ttrpc/method.ts'
import { tell, type CallReport } from '../ttrpc/options.ts'
import { kindOf, type ServiceMethods } from './definition.ts'
import { messageBytesMax, type GrpcTypes } from './grpc-client.ts'
import { toGrpcStatus } from './grpc-status.ts'

/** A service and what answers its calls. */
export interface GrpcService {
  readonly methods: ServiceMethods
  readonly implementation: UntypedServiceImplementation
  /** Ends every call in flight with this error; the handlers' signals abort. */
  endCalls(error: RuntimeError): void
}

type OnCall = (report: CallReport) => void

type Handle = (request: unknown, context: CallContext) => unknown

function isHandle(value: unknown): value is Handle {
  return typeof value === 'function'
}

/**
 * Turns handlers into grpc-js's form. A thrown RuntimeError answers its code with the messages of its causes; anything
 * else answers INTERNAL. Methods without a handler answer UNIMPLEMENTED. `onCall` is told of every call when it is over, with what
 * it was answered; CANCELLED or DEADLINE_EXCEEDED when its caller had gone before.
 */
export function grpcHandlers<T extends GrpcTypes>(service: Service<T>, handlers: Handlers<T>, onCall?: OnCall): GrpcService
export function grpcHandlers(service: Service<GrpcTypes>, handlers: object, onCall?: OnCall): GrpcService {
  const implementation: UntypedServiceImplementation = {}
  const inFlight = new Set<Refuse>()
  for (const [name, method] of Object.entries(service.methods)) {
    const handle: unknown = Reflect.get(handlers, name)
    if (!isHandle(handle)) continue
    const kind = kindOf(method)
    const report = reporter(method.path, kind, onCall)
    if (kind === 'unary') implementation[name] = unary(handle, inFlight, report)
    else if (kind === 'server-stream') implementation[name] = serverStream(handle, inFlight, report)
    else throw new RuntimeError('INTERNAL', `${service.name}/${name} streams its request; serve it over ttrpc`)
  }
  const endCalls = (error: RuntimeError) => {
    for (const refuse of inFlight) refuse(error)
  }
  return { methods: service.methods, implementation, endCalls }
}

/**
 * Listens on a socket that only its owner may open; a socket file that nobody answers on is replaced.
 *
 * Ending it answers every call in flight with UNAVAILABLE, the one code that makes containerd ask again: any other
 * would be taken for the sandbox's end, and grpc-js alone resets calls as CANCELLED.
 */
export async function serveGrpc(socketPath: string, services: readonly GrpcService[]): Promise<AsyncDisposable> {
  const server = new Server({ 'grpc.max_receive_message_length': messageBytesMax })
  for (const { methods, implementation } of services) server.addService(methods, implementation)
  await removeStaleSocket(socketPath)
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${socketPath}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve()
      else reject(new RuntimeError('UNAVAILABLE', `cannot listen on ${socketPath}`, { cause: error }))
    })
  })
  await chmod(socketPath, socketMode)
  return {
    [Symbol.asyncDispose]: async () => {
      for (const service of services) service.endCalls(new RuntimeError('UNAVAILABLE', 'the server is going away'))
      const flushed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()))
      await Promise.race([flushed, setTimeout(flushMsMax, undefined, { ref: false })])
      server.forceShutdown()
    },
  }
}

async function removeStaleSocket(socketPath: string): Promise<void> {
  const probe = connect(socketPath)
  try {
    await once(probe, 'connect')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ECONNREFUSED') await rm(socketPath, { force: true })
    return
  } finally {
    probe.destroy()
  }
  throw new RuntimeError('ALREADY_EXISTS', `another process listens on ${socketPath}; stop it first`)
}

/** How long the last answers may take to leave. */
const flushMsMax = 500

const socketMode = 0o600

type Call = ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>

function contextOf(call: Call): CallContext {
  const ended = new AbortController()
  const deadline = Number(call.getDeadline())
  // Emitted when the caller gives up, when the deadline passes, and after the answer.
  call.once('cancelled', () => {
    const late = Date.now() >= deadline
    ended.abort(new RuntimeError(late ? 'DEADLINE_EXCEEDED' : 'CANCELLED', `${call.getPath()} is over`))
  })
  return {
    signal: ended.signal,
    metadata: metadataOf(call.metadata),
    deadlineMs: Number.isFinite(deadline) ? deadline : undefined,
  }
}

/** Text headers only; a "-bin" value is bytes, and nothing of ours sends one. HTTP/2 joins a key's values by ", ". */
function metadataOf(metadata: Metadata): Record<string, string[]> {
  const keys = Object.keys(metadata.getMap())
  return Object.fromEntries(keys.map((key) => [key, metadata.get(key).filter((value) => typeof value === 'string')]))
}

/** Ends one call with an error. */
type Refuse = (error: unknown) => void

/** Begins to measure a call. */
type Measure = () => Measured
/** The call is over, with this error or well. Only the first word counts. */
type Measured = (error?: unknown) => void

function reporter(path: string, kind: CallKind, onCall: OnCall | undefined): Measure {
  if (onCall === undefined) return () => () => {}
  return () => {
    const startedMs = performance.now()
    let over = false
    return (thrown) => {
      if (over) return
      over = true
      const error = thrown === undefined ? undefined : asRuntimeError(thrown)
      const code: StatusName = error?.code ?? 'OK'
      tell(onCall, { path, kind, code, message: error === undefined ? '' : explain(error), durationMs: performance.now() - startedMs })
    }
  }
}

function unary(handle: Handle, inFlight: Set<Refuse>, measure: Measure) {
  return (call: ServerUnaryCall<unknown, unknown>, answer: sendUnaryData<unknown>) => {
    const over = measure()
    const context = contextOf(call)
    context.signal.addEventListener('abort', () => over(context.signal.reason), { once: true })
    const refuse = (error: unknown) => {
      over(error)
      if (inFlight.delete(refuse)) answer(toGrpcStatus(error))
    }
    inFlight.add(refuse)
    const run = async () => {
      const value = await handle(call.request, context)
      over()
      if (inFlight.delete(refuse)) answer(null, value)
    }
    run().catch(refuse)
  }
}

function serverStream(handle: Handle, inFlight: Set<Refuse>, measure: Measure) {
  return (call: ServerWritableStream<unknown, unknown>) => {
    const over = measure()
    const context = contextOf(call)
    context.signal.addEventListener('abort', () => over(context.signal.reason), { once: true })
    const refuse = (error: unknown) => {
      over(error)
      if (!inFlight.delete(refuse) || context.signal.aborted) return
      call.emit('error', Object.assign(new Error('call failed'), toGrpcStatus(error)))
    }
    inFlight.add(refuse)
    const run = async () => {
      const messages = handle(call.request, context)
      if (!isAsyncIterable(messages)) throw new RuntimeError('INTERNAL', `${call.getPath()} answered no stream`)
      for await (const message of messages) {
        if (!inFlight.has(refuse) || context.signal.aborted) return
        if (!call.write(message)) await once(call, 'drain', { signal: context.signal })
      }
      over()
      if (inFlight.delete(refuse)) call.end()
    }
    run().catch(refuse).finally(() => inFlight.delete(refuse))
  }
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}
