/**
 * A stand-in agent that tests vsock from inside: prints one line "ok NAME" per scene on the console, or why not, and
 * powers the machine off. Its other half is test/integration/os-vm.test.ts.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { startupSnapshot } from 'node:v8'
import { CID_ANY, CID_HOST } from '#shared/os/contract.ts'
import { createNativeOs } from '#shared/os/native.ts'
import {
  ECHO_PORT, GUEST_DIALS_BYTES, GUEST_PORT, HOST_DIALS_BYTES, HOST_PORT, SILENT_PORT, bulk, readBulk,
} from './vm-vsock.ts'

const os = createNativeOs()

async function scene(name: string, run: () => Promise<void>): Promise<void> {
  try {
    await run()
    console.log(`ok ${name}`)
  } catch (error) {
    console.log(`not ok ${name}: ${error instanceof Error ? error.stack : String(error)}`)
  }
}

/** Both directions at once, on one connection; the guest's write is one call with all of it. */
async function exchange(socket: Socket, bytes: number, seed: number): Promise<void> {
  const written = new Promise<void>((done) => socket.write(bulk(bytes, seed), () => done()))
  assert.equal(await readBulk(socket, bulk(bytes, seed + 1)), undefined)
  await written
  socket.end()
  await once(socket, 'close')
}

async function main(): Promise<void> {
  await scene('the local CID', async () => assert.equal(os.vsock.localCid(), 3))
  await scene('a stream to the host', async () => {
    const socket = await os.vsock.connect({ cid: CID_HOST, port: HOST_PORT })
    await exchange(socket, GUEST_DIALS_BYTES, 1)
  })
  await scene('a stream from the host', async () => {
    const accepted = Promise.withResolvers<Socket>()
    const peers: number[] = []
    const listener = await os.vsock.listen(GUEST_PORT, (socket, peer) => {
      peers.push(peer.cid)
      accepted.resolve(socket)
    })
    assert.deepEqual(listener.address, { cid: CID_ANY, port: GUEST_PORT })
    await assert.rejects(os.vsock.listen(GUEST_PORT, () => {}), { code: 'EADDRINUSE' })
    const told = await os.vsock.connect({ cid: CID_HOST, port: HOST_PORT })
    told.end('listening')
    await exchange(await accepted.promise, HOST_DIALS_BYTES, 3)
    assert.deepEqual(peers, [CID_HOST])
    await listener.close()
  })
  await scene('sixty connections at once', async () => {
    const texts = await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const socket = await os.vsock.connect({ cid: CID_HOST, port: ECHO_PORT })
        socket.write(`${index}\n`)
        const [data] = await once(socket, 'data')
        socket.destroy()
        return String(data)
      }),
    )
    assert.deepEqual(texts, Array.from({ length: 60 }, (_, index) => `${index}\n`))
  })
  await scene('a connect that nobody answers', async () => {
    // vhost-device-vsock stays silent for a port without a listener; the kernel's limit ends the wait.
    await assert.rejects(os.vsock.connect({ cid: CID_HOST, port: SILENT_PORT }, { timeoutMs: 50 }), { code: /ETIMEDOUT|ECONNRESET/ })
    const abort = new AbortController()
    const waiting = os.vsock.connect({ cid: CID_HOST, port: SILENT_PORT }, { timeoutMs: 60_000, signal: abort.signal })
    abort.abort(new Error('enough'))
    await assert.rejects(waiting, /enough|ECONNRESET/)
  })
  await scene('no such machine', async () => {
    await assert.rejects(os.vsock.connect({ cid: 77, port: 1 }), { code: /ENODEV|ETIMEDOUT|ECONNRESET|EHOSTUNREACH/ })
  })
  await scene('a pty and the boot clock', async () => {
    const { readFd, writeFd } = os.descriptors.pipe()
    os.descriptors.stream(writeFd, 'write').end('through')
    assert.equal((await buffer(os.descriptors.stream(readFd, 'read'))).toString(), 'through')
    assert.ok(os.processes.bootTimeNanos() > 0n)
    os.processes.setRealtime(1_800_000_000_000_000_000n)
    assert.ok(Math.abs(Date.now() - 1_800_000_000_000) < 60_000)
    os.processes.sethostname('renamed')
  })
  console.log('scenes done')
  os.processes.powerOff()
}

// Only in the guest: the bundle is also evaluated where its snapshot is built.
const start = () => void main().catch((error: unknown) => console.log('failed', error))
if (startupSnapshot.isBuildingSnapshot()) startupSnapshot.setDeserializeMainFunction(start)
else if (process.ppid === 1) start()
