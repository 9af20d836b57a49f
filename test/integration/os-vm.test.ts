/** vsock for real: the addon in a guest of the image, vhost-device-vsock and this process at the other end. */
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { type Socket, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { buildImage } from '../../image/build.ts'
import { startNode } from '#test/node/node.ts'
import { checkout } from '#test/node/paths.ts'
import { ECHO_PORT, GUEST_DIALS_BYTES, GUEST_PORT, HOST_DIALS_BYTES, HOST_PORT, bulk, readBulk } from '#test/support/vm-vsock.ts'
import { startVm } from '#test/support/vm.ts'

const entry = join(import.meta.dirname, '../support/vm-vsock-agent.ts')
const out = join(checkout, 'build/image-os-vm')

await t.test('64 MiB each way, byte for byte, and every way to fail', { timeout: 600_000 }, async (t) => {
  const { paths } = await buildImage({ out, entry, compression: 'none' })
  t.teardown(() => rm(out, { recursive: true }))
  await using node = await startNode({ images: false })
  const vm = await startVm(node, { name: 'os', image: { ...paths, kernel: paths.vmlinux } })

  const dialled: Socket[] = []
  const waiting: ((socket: Socket) => void)[] = []
  const host = createServer((socket) => {
    const taker = waiting.shift()
    if (taker === undefined) dialled.push(socket)
    else taker(socket)
  })
  const next = async () => dialled.shift() ?? (await new Promise<Socket>((resolve) => waiting.push(resolve)))
  const echo = createServer((socket) => void socket.on('error', () => {}).pipe(socket))
  host.listen(`${vm.vsock}_${HOST_PORT}`)
  echo.listen(`${vm.vsock}_${ECHO_PORT}`)
  t.teardown(() => [host, echo].map((server) => server.close()))
  const ended = vm.console

  t.equal(await exchange(await Promise.race([next(), failed(ended)]), GUEST_DIALS_BYTES, 1), undefined, 'the guest dials: what it sent arrived')
  t.equal(await text(await next()), 'listening')
  const inward = connect(vm.vsock)
  inward.write(`CONNECT ${GUEST_PORT}\n`)
  t.match(await line(inward), /^OK \d+$/)
  t.equal(await exchange(inward, HOST_DIALS_BYTES, 3), undefined, 'the host dials: what the guest sent arrived')

  const said = await ended
  const scenes = said.split('\n').filter((line) => /^(not )?ok /.test(line))
  for (const scene of scenes) t.match(scene, /^ok /)
  t.equal(scenes.length, 7)
  t.match(said, /scenes done/)
})

/** Sends one stream while reading the other; answers where what came differs, if it does. */
async function exchange(socket: Socket, bytes: number, seed: number): Promise<number | undefined> {
  const written = new Promise<void>((done) => socket.write(bulk(bytes, seed + 1), () => done()))
  const difference = await readBulk(socket, bulk(bytes, seed))
  await written
  // The guest closes.
  if (!socket.closed) await once(socket.resume(), 'close')
  return difference
}

/** The first line, with nothing read beyond it. */
async function line(socket: Socket): Promise<string> {
  let text = ''
  while (!text.endsWith('\n')) {
    const byte: Buffer | null = socket.read(1)
    if (byte === null) await once(socket, 'readable')
    else text += byte.toString('latin1')
  }
  return text.trimEnd()
}

/** A VM that ends early fails the test with what its console said. */
async function failed(console: Promise<string>): Promise<never> {
  throw new Error(`the VM ended: ${await console}`)
}
