/** containerd's own client against our server. The calls and their expectations are in test/peer-go/check.go. */
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import t from 'tap'
import { explain, hasCode } from '#shared/errors.ts'
import { type Handlers, TtrpcServer } from '#shared/ttrpc/index.ts'
import { buildPeer, pendingPeer, socketFolder } from '../peer-go/go.ts'
import { peerHandlers, peerService, type PeerTypes } from '../peer-go/service.ts'

const peer = buildPeer()

t.test('Go client, our server', { skip: 'lack' in peer && `lacks: ${peer.lack}` }, async (t) => {
  if ('lack' in peer) return
  for (const writeBytesMax of [Number.POSITIVE_INFINITY, 16 * 1024]) {
    using sockets = socketFolder()
    const errors: Error[] = []
    const server = new TtrpcServer({ writeBytesMax, onError: (error) => errors.push(error) })
    server.add(peerService, peerHandlers)
    const listener = net.createServer((socket) => server.accept(socket)).listen(sockets.path('s'))
    await once(listener, 'listening')

    const { stdout } = await execa(peer.path, ['check', sockets.path('s')], { stderr: 'inherit' })
    const results = stdout.split('\n').map((line): { name: string; error: string } => JSON.parse(line))
    t.ok(results.length >= 17, `${results.length} checks ran`)
    for (const { name, error } of results) t.equal(error, '', `${name}, writes of at most ${writeBytesMax} bytes`)
    const broken = errors.map((error) => explain(error)).filter((text) => !/EPIPE|ECONNRESET/.test(text))
    t.same(broken, [], 'no connection ended but by the peer closing it')

    await server.close()
    t.equal(server.connections, 0)
    listener.close()
  }
})

const codeOf = (error: unknown): string => (hasCode(error, 'UNAVAILABLE') ? 'UNAVAILABLE' : explain(error))

type Method = 'Echo' | 'Sum' | 'Count' | 'Chat'

/** A server whose handlers wait for what ends them, and what that was. */
async function waitingServer(socket: string) {
  const ends = new Map<Method, PromiseWithResolvers<string>>((['Echo', 'Sum', 'Count', 'Chat'] as const).map((name) => [name, Promise.withResolvers()]))
  const over = new Set<Method>()
  const ended = (method: Method, how: string) => {
    over.add(method)
    ends.get(method)?.resolve(how)
  }
  const handlers: Handlers<PeerTypes> = {
    async Echo(request, { signal }) {
      if (request.value.length > 0) return request
      await once(signal, 'abort')
      ended('Echo', codeOf(signal.reason))
      throw signal.reason
    },
    async Sum(requests, { signal }) {
      let total = 0
      try {
        for await (const { value } of requests) total += Number(value)
        ended('Sum', `end of ${total}`)
      } catch (error) {
        ended('Sum', signal.aborted ? codeOf(error) : 'no signal')
        throw error
      }
      return { value: total }
    },
    async *Count(_request, { signal }) {
      try {
        for (let i = 1; ; i++) {
          yield { value: i }
          await sleep(10)
        }
      } finally {
        ended('Count', signal.aborted ? codeOf(signal.reason) : 'no signal')
      }
    },
    async *Chat(requests, { signal }) {
      try {
        yield* requests
        ended('Chat', 'end')
      } catch (error) {
        ended('Chat', signal.aborted ? codeOf(error) : 'no signal')
        throw error
      }
    },
  }
  const server = new TtrpcServer()
  server.add(peerService, handlers)
  const listener = net.createServer((connection) => server.accept(connection)).listen(socket)
  await once(listener, 'listening')
  return {
    over,
    end: (method: Method) => ends.get(method)?.promise,
    async [Symbol.asyncDispose]() {
      await server.close()
      listener.close()
    },
  }
}

t.test('a Go client with calls and streams pending', { skip: 'lack' in peer && `lacks: ${peer.lack}` }, async (t) => {
  if ('lack' in peer) return
  using sockets = socketFolder()

  await t.test('is killed', async (t) => {
    await using server = await waitingServer(sockets.path('killed'))
    await using client = await pendingPeer(peer.path, sockets.path('killed'))
    t.same([...server.over], [])
    await client.kill()
    for (const method of ['Echo', 'Sum', 'Count', 'Chat'] as const) t.equal(await server.end(method), 'UNAVAILABLE', method)
  })

  // ttrpc has no message for it: the server learns of it by the end of what the client sends, or of the connection.
  await t.test('cancels them: nothing is said of that, and the connection goes on', async (t) => {
    await using server = await waitingServer(sockets.path('cancelled'))
    await using client = await pendingPeer(peer.path, sockets.path('cancelled'))
    await client.tell('cancel')
    await client.tell('echo')
    t.same([...server.over], [], 'all are as before')
    await client.tell('half-close')
    t.equal(await server.end('Sum'), 'end of 5')
    t.equal(await server.end('Chat'), 'end')
    await client.tell('echo')
    t.same([...server.over].toSorted(), ['Chat', 'Sum'])
    await client.kill()
    for (const method of ['Echo', 'Count'] as const) t.equal(await server.end(method), 'UNAVAILABLE', method)
  })
})
