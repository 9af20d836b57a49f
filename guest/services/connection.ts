/** One connection of containerd's or the sandboxer's, with every service on it. */
import type { Socket } from 'node:net'
import type { Log } from '#shared/log.ts'
import type { ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Service } from '#shared/ttrpc/method.ts'
import type { CallReport } from '#shared/ttrpc/options.ts'
import { type ServedService, TtrpcServer } from '#shared/ttrpc/server.ts'
import type { GuestRpc } from '../rpc.ts'
import type { StreamRegistry } from '../streams/registry.ts'
import { StreamConnection } from './stream-connection.ts'
import { createStreamingService } from './streaming.ts'

export interface Services {
  readonly rpc: GuestRpc
  readonly streams: StreamRegistry
  /** Those that are the same on every connection */
  readonly served: readonly ServedService[]
  readonly streaming: Service<ServiceTypesOf<'streaming'>>
  readonly writeBytesMax: number
  /** Whether the level is one at which calls are logged */
  logsCalls(): boolean
  readonly log: Log
}

/**
 * Serves a socket until it ends. A server per connection, since the streaming service ends the connection its stream
 * was alone on: containerd up to 2.2 leaves them open.
 */
export function serveConnection(socket: Socket, services: Services): void {
  const { rpc, streams, served, streaming, writeBytesMax, log } = services
  const server = new TtrpcServer({
    writeBytesMax,
    onError: (error) => log.warn('a call failed unexpectedly', { error }),
    ...(services.logsCalls() ? { onCall: logCall(log) } : {}),
  })
  for (const service of served) server.serve(service)
  server.add(streaming, createStreamingService(streams, rpc, new StreamConnection(socket))).accept(socket)
}

const logCall = (log: Log) => ({ path, code, message, durationMs }: CallReport) => {
  log.debug(path, { code, ms: Math.round(durationMs), ...(message === '' ? {} : { message }) })
}
