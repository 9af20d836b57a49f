/**
 * GET /metrics for whoever scrapes, and nothing else. Off unless the configuration names an address. Nothing that is sent here
 * changes anything, and what is answered names no pod.
 */
import { chmod, lstat, mkdir, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { dirname } from 'node:path'
import { RuntimeError, explain } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'
import type { MetricsAddress } from '../config/metrics.ts'
import type { Metrics } from './metrics.ts'

/** At the same time; one more is closed unheard. */
export const CONNECTIONS_MAX = 16
/** Of a request's line and headers, in bytes. */
const HEADER_BYTES_MAX = 8 * 1024
/** For a whole request to come, in ms. */
const REQUEST_MS_MAX = 5_000
/** Without a byte either way: of a reader that has stopped, or between two requests of a connection, in ms. */
const IDLE_MS_MAX = 10_000
/** Of a unix socket: root's alone, as kuasarctl's is */
const SOCKET_MODE = 0o600

const PATH = '/metrics'

/** Errors: UNAVAILABLE, naming `at` (where the address is configured), when it cannot be listened on. */
export async function serveMetrics(address: MetricsAddress, at: string, metrics: Pick<Metrics, 'text' | 'contentType'>): Promise<AsyncDisposable> {
  const server = createServer(
    { maxHeaderSize: HEADER_BYTES_MAX, headersTimeout: REQUEST_MS_MAX, requestTimeout: REQUEST_MS_MAX, connectionsCheckingInterval: 1_000, keepAliveTimeout: IDLE_MS_MAX },
    (request, response) => void answer(request, response, metrics),
  )
  server.maxConnections = CONNECTIONS_MAX
  server.setTimeout(IDLE_MS_MAX)
  try {
    await listen(server, address)
  } catch (error) {
    throw new RuntimeError('UNAVAILABLE', `${at}: cannot listen on ${JSON.stringify(address.text)}: ${explain(error)}`, { cause: error })
  }
  return {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise<void>((resolve) => server.close(() => resolve()))
    },
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, metrics: Pick<Metrics, 'text' | 'contentType'>): Promise<void> {
  const refuse = (status: number, text: string, headers: Readonly<Record<string, string>> = {}) => {
    // Whatever body comes with it is not read.
    response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close', ...headers }).end(`${text}\n`)
  }
  const [path] = (request.url ?? '').split('?')
  if (path !== PATH) return refuse(404, `only ${PATH} is served here`)
  if (request.method !== 'GET') return refuse(405, `only GET is answered`, { allow: 'GET' })
  try {
    response.writeHead(200, { 'content-type': metrics.contentType }).end(await metrics.text())
  } catch (error) {
    refuse(500, explain(error))
  }
}

async function listen(server: Server, address: MetricsAddress): Promise<void> {
  if (address.kind === 'unix') await clear(address.path)
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  if (address.kind === 'unix') server.listen(address.path, resolve)
  else server.listen(address.port, address.host, resolve)
  await promise
  server.off('error', reject)
  if (address.kind === 'unix') await chmod(address.path, SOCKET_MODE)
}

/** A socket that an earlier sandboxer left; anything else there is somebody's. */
async function clear(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  try {
    if ((await lstat(path)).isSocket()) await rm(path)
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error
  }
}
