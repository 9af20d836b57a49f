/** containerd's own client against our server. The calls and their expectations are in test/peer-go/check.go. */
import { once } from 'node:events'
import net from 'node:net'
import { execa } from 'execa'
import t from 'tap'
import { explain } from '#shared/errors.ts'
import { TtrpcServer } from '#shared/ttrpc/index.ts'
import { buildPeer, socketFolder } from '../peer-go/go.ts'
import { peerHandlers, peerService } from '../peer-go/service.ts'

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
