/** Our end of the ttrpc benchmark, serving: `ttrpc-server.ts SOCKET` prints "ready", and ends with its stdin. */
import net from 'node:net'
import { TtrpcServer } from '#shared/ttrpc/index.ts'
import { peerHandlers, peerService } from '#test/peer-go/service.ts'

const server = new TtrpcServer().add(peerService, peerHandlers)
net.createServer((socket) => server.accept(socket)).listen(process.argv[2], () => console.log('ready'))
process.stdin.resume().on('end', () => process.exit())
