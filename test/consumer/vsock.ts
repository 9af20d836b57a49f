/**
 * A program that has installed node-vsock (test/integration/packages.test.ts), on a real AF_VSOCK. Its last line says what the
 * machine gave: a loopback that carried a stream, or with which error it had none.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import type { Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import * as vsock from 'node-vsock'
import { CID_ANY, CID_LOCAL, connect, listen, localCid, OsError, PORT_ANY, VSOCK_WRITE_BYTES_MAX, type VsockAddress, type VsockListener } from 'node-vsock'

type IsAny<T> = 0 extends 1 & T ? true : false
const leaks: readonly false[] = [
  false satisfies IsAny<Awaited<ReturnType<typeof connect>>>,
  false satisfies IsAny<Parameters<typeof connect>[1]>,
  false satisfies IsAny<Parameters<Parameters<typeof listen>[1]>[0]>,
  false satisfies IsAny<Awaited<ReturnType<typeof listen>>[keyof VsockListener]>,
  false satisfies IsAny<ReturnType<typeof localCid>>,
]
assert.equal(leaks.length, 5)
assert.deepEqual(Object.keys(vsock).toSorted(), ['CID_ANY', 'CID_HOST', 'CID_LOCAL', 'OsError', 'PORT_ANY', 'VSOCK_WRITE_BYTES_MAX', 'connect', 'listen', 'localCid'])
assert.equal(createRequire(import.meta.url)('node-vsock').connect, connect)
const inside = 'node-vsock/lib/vsock/vsock.js'
await assert.rejects(import(inside), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' })

/** Loads the addon too: what is wrong with that is told before anything of the argument. */
await assert.rejects(connect({ cid: CID_LOCAL, port: -1 }), { name: 'OsError', code: 'EINVAL', syscall: 'connect' })
await assert.rejects(connect({ cid: CID_LOCAL, port: 1 }, { signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' })
// @ts-expect-error -- an address has both
await assert.rejects(connect({ cid: 1 }), { code: 'EINVAL' })
// A machine with a loopback alone has no CID.
try {
  assert(localCid() > CID_LOCAL)
} catch (error) {
  assert(error instanceof OsError && error.code === 'ENODEV')
}
console.log(await overLoopback().catch(lacking))

async function overLoopback(): Promise<string> {
  const peers: VsockAddress[] = []
  const accepted = Promise.withResolvers<Socket>()
  await using listener = await listen(PORT_ANY, (socket, peer) => {
    peers.push(peer)
    accepted.resolve(socket)
  })
  const { cid, port } = listener.address
  assert.equal(cid, CID_ANY)
  assert(port >= 1024 && port < PORT_ANY)
  await assert.rejects(listen(port, () => {}), { name: 'OsError', code: 'EADDRINUSE', syscall: 'bind' })
  const socket = await connect({ cid: CID_LOCAL, port }, { timeoutMs: 200 })
  const sent = Buffer.alloc(64 * VSOCK_WRITE_BYTES_MAX + 1, 'vsock')
  socket.end(sent)
  assert(sent.equals(await buffer(await accepted.promise)))
  if (!socket.closed) await once(socket, 'close')
  assert.deepEqual(peers.map((peer) => peer.cid), [CID_LOCAL])
  await listener.close()
  await assert.rejects(connect({ cid: CID_LOCAL, port }, { timeoutMs: 200 }), { code: 'ECONNRESET' })
  return 'loopback'
}

/** The kernel's own refusals of a machine without vsock, or without its loopback; all else is a fault. */
function lacking(error: unknown): string {
  assert(error instanceof OsError)
  const { code, syscall, message } = error
  assert(message.endsWith(`(${code})`))
  const kernel = { socket: ['EAFNOSUPPORT'], connect: ['ETIMEDOUT', 'ENODEV', 'ECONNRESET', 'ENETUNREACH', 'EHOSTUNREACH'] }
  assert(Object.entries(kernel).some(([call, codes]) => call === syscall && codes.includes(code)), message)
  return `no loopback: ${code} of ${syscall}`
}
