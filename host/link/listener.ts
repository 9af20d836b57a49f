/**
 * The unix socket at which one guest's dials arrive. Accepting costs the sandboxer's only thread whatever is done with the
 * connection afterwards, and a guest that dials in a loop would have most of it: 60 % of a processor, measured. So the
 * listener of such a guest rests, and what it dials meanwhile is refused by the kernel. Whom the kernel had let in, but not the
 * sandboxer, is reset; vhost-device-vsock 0.3.0 does not tell the guest (hang-up.ts), which has only itself to blame.
 */
import { chmod, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { RuntimeError, explain } from '#shared/errors.ts'

/** Of a guest's, in `WINDOW_MS`. An agent has one link, and dials again when it broke. */
const LINKS_MAX = 32
const WINDOW_MS = 1000
/** How long the listener then rests. */
const REST_MS = 1000

export interface ListenerOwner {
  onConnection(socket: Socket): void
  /** It listens no more for a while. */
  onRest?(): void
  /** The socket could not be listened on again; it is tried again after as long a rest. */
  onError(error: Error): void
}

/** Listens on `path`, which only root may dial; what an earlier process left there goes. Errors: INTERNAL. */
export async function listenForGuest(path: string, owner: ListenerOwner): Promise<AsyncDisposable> {
  let rest: NodeJS.Timeout | undefined
  let closed = false
  let [windowAt, links] = [performance.now(), 0]
  const server = createServer((socket) => {
    const now = performance.now()
    if (now - windowAt >= WINDOW_MS) [windowAt, links] = [now, 0]
    links++
    if (links >= LINKS_MAX && server.listening) {
      // Connections stay; only the listening ends.
      server.close()
      takeRest()
      owner.onRest?.()
    }
    owner.onConnection(socket)
  })
  const listen = async (): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    server.once('error', reject)
    server.listen(path, resolve)
    await promise
    server.off('error', reject)
    await chmod(path, 0o600)
  }
  const takeRest = (): void => {
    rest = setTimeout(() => {
      listen().catch((error: unknown) => {
        if (closed) return
        server.close()
        owner.onError(unlistened(path, error))
        takeRest()
      })
    }, REST_MS)
  }
  try {
    await rm(path, { force: true })
    await listen()
  } catch (error) {
    throw unlistened(path, error)
  }
  // Of an accept. That of a later listen is its promise's.
  server.on('error', (error) => {
    if (server.listening) owner.onError(error)
  })
  return {
    async [Symbol.asyncDispose]() {
      closed = true
      clearTimeout(rest)
      // Also when it rests: the callback is then told so, and no harm done.
      await new Promise<void>((resolve) => server.close(() => resolve()))
    },
  }
}

const unlistened = (path: string, cause: unknown): RuntimeError =>
  new RuntimeError('INTERNAL', `cannot listen for the guest on ${path}: ${explain(cause)}`, { cause })
