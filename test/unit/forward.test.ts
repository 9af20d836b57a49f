/** Port-forward's wire and both of its halves, over real sockets. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Forwards } from '#guest/forward/forwards.ts'
import { Gate } from '#shared/gate.ts'
import { FORWARDS_MAX } from '#host/forward/forwards.ts'
import { FrameParser, header, WINDOW_BYTES } from '#shared/forward/frame.ts'
import { reset } from '#shared/forward/reset.ts'
import { silentLog } from '#shared/log.ts'
import { forwardWorld, gone, serve, stopped } from '#test/support/forward-world.ts'
import { poll } from '#test/node/poll.ts'
import { random } from '#test/support/random.ts'
import { pattern } from './os-contract.ts'

const MiB = 1024 * 1024

t.test('frames', async (t) => {
  await t.test('come out whole however they are cut', async (t) => {
    for (let seed = 1; seed <= 200; seed++) {
      const next = random(seed)
      const frames: Buffer[] = []
      const sent: Buffer[] = []
      for (let left = next() % 40; left > 0; left--) {
        const data = pattern(1 + (next() % (left % 5 === 0 ? WINDOW_BYTES : 100)))
        sent.push(data)
        frames.push(header('data', data.length), data)
      }
      const wire = Buffer.concat([...frames, header('credit', 5), header('end'), header('credit', 6), header('done')])
      const seen: string[] = []
      const received: Buffer[] = []
      const parser = new FrameParser({ data: (bytes) => received.push(Buffer.from(bytes)), credit: (bytes) => seen.push(`credit ${bytes}`), end: () => seen.push('end'), done: () => seen.push('done') })
      for (let at = 0; at < wire.length; ) {
        const cut = at + 1 + (next() % (next() % 3 === 0 ? 7 : 50_000))
        parser.push(wire.subarray(at, cut))
        at = cut
      }
      const same = Buffer.concat(received).equals(Buffer.concat(sent)) && seen.join() === 'credit 5,end,credit 6,done'
      if (!same) t.fail(`seed ${seed}`)
    }
    t.pass('200 seeds')
  })
  await t.test('noise is refused or is data, and is never held', async (t) => {
    let refused = 0
    for (let seed = 1; seed <= 500; seed++) {
      const next = random(seed)
      let got = 0
      let given = 0
      const parser = new FrameParser({ data: (bytes) => (got += bytes.length), credit() {}, end() {}, done() {} })
      try {
        for (let i = 0; i < 50; i++) {
          const noise = Buffer.from(Array.from({ length: 1 + (next() % 64) }, () => (next() % 3 === 0 ? next() & 0xff : 0)))
          given += noise.length
          parser.push(noise)
        }
      } catch (error) {
        refused++
        t.match(error, { code: 'INVALID_ARGUMENT' }, `seed ${seed}`)
      }
      t.ok(got <= given)
    }
    t.ok(refused > 100, `${refused} of 500 were refused`)
  })
  await t.test('limits have names in their errors', async (t) => {
    const refused = (message: RegExp, ...frames: Buffer[]) => {
      const parser = new FrameParser({ data() {}, credit() {}, end() {}, done() {} })
      t.throws(() => parser.push(Buffer.concat(frames)), { code: 'INVALID_ARGUMENT', message })
    }
    refused(/kind 0 and count 61441: expected 1 to 61440/, header('data', WINDOW_BYTES + 1))
    refused(/kind 0 and count 0/, header('data', 0))
    refused(/kind 2 and count 61441/, header('credit', WINDOW_BYTES + 1))
    refused(/kind 1 and count 7/, header('end', 7))
    refused(/kind 9 and/, Buffer.of(9, 0, 0, 0))
    refused(/went on with data after its end/, header('end'), header('data', 1))
    refused(/went on with end after its end/, header('end'), header('end'))
    refused(/went on with credit after its last word/, header('end'), header('done'), header('credit', 1))
  })
})

t.test('a gate lets no more through than it is wide, in order', async (t) => {
  const gate = new Gate(3)
  let inside = 0
  const order: number[] = []
  const tasks = Array.from({ length: 20 }, (_, i) =>
    gate.run(async () => {
      t.ok(++inside <= 3)
      order.push(i)
      await sleep(1)
      inside--
      if (i % 4 === 0) throw new Error('fails')
    }).catch(() => {}),
  )
  await Promise.all(tasks)
  t.same(order, Array.from({ length: 20 }, (_, i) => i))
})

t.test('servers on 127.0.0.1, on ::1 and on every address', async (t) => {
  const world = await forwardWorld(t)
  for (const host of ['127.0.0.1', '::1', '0.0.0.0', '::']) {
    const port = await serve(t, (socket) => socket.end(`from ${host}`), host)
    const client = await world.dial(port)
    t.equal((await buffer(client)).toString(), `from ${host}`)
    client.end()
  }
})

t.test('half-closes, each way', async (t) => {
  const world = await forwardWorld(t)
  await t.test('a client that asks, ends, and reads the whole answer', async (t) => {
    const port = await serve(t, (socket) => void buffer(socket).then((all) => socket.end(Buffer.concat([all, all]))))
    const client = await world.dial(port)
    const asked = pattern(3 * MiB)
    client.end(asked)
    t.ok((await buffer(client)).equals(Buffer.concat([asked, asked])))
    await gone(world.carriers)
  })
  await t.test('a server that ends first goes on reading', async (t) => {
    const { promise: whole, resolve } = Promise.withResolvers<Buffer>()
    const port = await serve(t, (socket) => {
      socket.end('that is all')
      void buffer(socket).then(resolve)
    })
    const client = await world.dial(port)
    t.equal((await buffer(client)).toString(), 'that is all')
    const sent = pattern(2 * MiB)
    client.end(sent)
    t.ok((await whole).equals(sent))
    await gone(world.carriers)
  })
  await t.test('nothing at all, either way', async (t) => {
    const port = await serve(t, (socket) => socket.resume().end())
    const client = await world.dial(port)
    client.end()
    t.equal((await buffer(client)).length, 0)
    await gone(world.carriers)
  })
})

t.test('much each way at once, byte for byte', async (t) => {
  const world = await forwardWorld(t)
  const up = pattern(16 * MiB)
  const down = Buffer.from(up.toReversed())
  const { promise: received, resolve } = Promise.withResolvers<Buffer>()
  const port = await serve(t, (socket) => {
    socket.end(down)
    void buffer(socket).then(resolve)
  })
  const client = await world.dial(port)
  client.end(up)
  t.ok((await buffer(client)).equals(down))
  t.ok((await received).equals(up))
})

t.test('a slow reader holds its writer up', async (t) => {
  const world = await forwardWorld(t)
  /** More than every buffer on the way: three kernels' sockets of up to 6 MiB each, and ours. */
  const total = 64 * MiB
  const chunk = pattern(MiB)
  const write = async (socket: Socket, progress: { written: number }) => {
    const hash = createHash('sha256')
    for (; progress.written < total; progress.written += chunk.length) {
      hash.update(chunk)
      if (!socket.write(chunk)) await once(socket, 'drain')
    }
    socket.end()
    return hash.digest('hex')
  }
  for (const direction of ['to the server', 'to the client']) {
    const { promise: accepted, resolve } = Promise.withResolvers<Socket>()
    const port = await serve(t, (socket) => resolve(socket.pause()))
    const client = (await world.dial(port)).pause()
    const server = await accepted
    const [writer, reader] = direction === 'to the server' ? [client, server] : [server, client]
    const progress = { written: 0 }
    const written = write(writer, progress)
    await stopped(() => progress.written, () => {})
    t.ok(progress.written < total, `${direction}: ${progress.written / MiB} MiB were on the way`)
    const read = digest(reader)
    t.equal(await read, await written, direction)
    reader.end()
    await gone(world.carriers)
  }
})

t.test('resets go through', async (t) => {
  const world = await forwardWorld(t)
  await t.test('a client that vanishes', async (t) => {
    const { promise: accepted, resolve } = Promise.withResolvers<Socket>()
    const port = await serve(t, resolve)
    const client = await world.dial(port)
    client.write('some')
    const server = await accepted
    await once(server, 'data')
    server.write('for nobody')
    client.resetAndDestroy()
    const [error] = await once(server, 'error')
    t.match(error, { code: 'ECONNRESET' })
    await gone(world.carriers)
  })
  await t.test('a server that vanishes', async (t) => {
    const port = await serve(t, (socket) => void socket.once('data', () => socket.resetAndDestroy()))
    const client = await world.dial(port)
    client.write('hello')
    t.match((await once(client, 'error'))[0], { code: 'ECONNRESET' })
    await gone(world.carriers)
  })
  await t.test('a port nobody listens on', async (t) => {
    const client = await world.dial(1)
    client.resume()
    t.match((await once(client, 'error'))[0], { code: 'ECONNRESET' })
    await gone(world.carriers)
  })
  await t.test('the end of the sandbox', async (t) => {
    const port = await serve(t, (socket) => socket.write('hello'))
    const clients = [await world.dial(port), await world.dial(port)]
    for (const client of clients) await once(client, 'data')
    const errors = clients.map((client) => once(client, 'error'))
    world.close()
    for (const error of errors) t.match((await error)[0], { code: 'ECONNRESET' })
    await gone(world.carriers)
    await t.rejects(world.dial(port), { code: 'ECONNREFUSED' })
  })
})

t.test('as many at once as there may be, and not one more', async (t) => {
  const world = await forwardWorld(t)
  const port = await serve(t, (socket) => void socket.on('data', (bytes) => socket.write(bytes)).once('end', () => socket.end()))
  const clients = await Promise.all(Array.from({ length: FORWARDS_MAX }, () => world.dial(port)))
  await Promise.all(
    clients.map(async (client, i) => {
      client.write(`client ${i}`)
      t.equal(String((await once(client, 'data'))[0]), `client ${i}`)
    }),
  )
  const more = await world.dial(port)
  more.resume()
  t.match((await once(more, 'error'))[0], { code: 'ECONNRESET' })
  const bytes = clients.reduce((sum, _, i) => sum + `client ${i}`.length, 0)
  t.match(world.counts(), { open: FORWARDS_MAX, carried: FORWARDS_MAX, refused: 1, failed: 0, bytesIn: bytes, bytesOut: bytes }, 'those of open ones are counted already')
  for (const client of clients) client.end()
  await gone(world.carriers)
  const nobody = await world.dial(1)
  nobody.resume()
  await once(nobody, 'error')
  t.ok(await poll(10_000, async () => (world.counts().open === 0 ? true : undefined)))
  t.match(world.counts(), { open: 0, carried: FORWARDS_MAX, refused: 1, failed: 1, bytesIn: bytes, bytesOut: bytes })
  const again = await world.dial(port)
  again.write('again')
  t.equal(String((await once(again, 'data'))[0]), 'again')
  again.destroy()
})

t.test('noise from a host, which is trusted, ends its own connection all the same', async (t) => {
  const port = await serve(t, (socket) => new Forwards(silentLog).accept(socket.pause()))
  const server = await serve(t, (socket) => socket.resume())
  const next = random(99)
  for (let i = 0; i < 20; i++) {
    const carrier = connect(port, '127.0.0.1').on('error', () => {})
    carrier.write(Buffer.of(server >> 8, server & 0xff))
    carrier.write(Buffer.concat([header('data', WINDOW_BYTES + 1 + (next() % 1000)), Buffer.alloc(next() % 5000)]))
    carrier.resume()
    await once(carrier, 'close')
  }
  t.pass('20 connections ended')
})

t.test('a guest whose sandboxer is gone ends what that one had opened', async (t) => {
  const forwards = new Forwards(silentLog)
  const port = await serve(t, (socket) => forwards.accept(socket.pause()))
  const { promise: served, resolve } = Promise.withResolvers<Socket>()
  const server = await serve(t, (socket) => resolve(socket.resume()))
  const carrier = connect(port, '127.0.0.1').on('error', () => {})
  carrier.write(Buffer.of(server >> 8, server & 0xff))
  await once(carrier, 'data')
  const ended = Promise.all([carrier, await served].map((socket) => new Promise<void>((resolve) => socket.once('close', () => resolve()))))
  forwards.reset()
  await ended
  t.pass('both ends')
})

t.test('what is cut short is reset, also when its end was on the way: nobody takes it for the whole', async (t) => {
  for (const ending of [false, true]) {
    const { promise: served, resolve } = Promise.withResolvers<Socket>()
    const port = await serve(t, (socket) => resolve(socket.pause()))
    const client = connect(port, '127.0.0.1').on('error', () => {})
    const reader = await served
    client.write(Buffer.alloc(32 * MiB))
    if (ending) client.end()
    await sleep(20)
    reset(client)
    reset(client)
    const ended = new Promise((done) => reader.once('end', () => done('end')).once('error', ({ message }) => done(message)))
    reader.resume()
    t.match(await ended, 'ECONNRESET', ending ? 'ending' : 'open')
  }
})

async function digest(socket: Socket): Promise<string> {
  const hash = createHash('sha256')
  for await (const bytes of socket) hash.update(bytes)
  return hash.digest('hex')
}
