/** Port-forward to a guest that means harm: what it costs the sandboxer, and whom it holds up. */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { queryObjects } from 'node:v8'
import t, { type Test } from 'tap'
import { answers, FrameParser, header, PORT_BYTES, WINDOW_BYTES } from '#shared/forward/frame.ts'
import { TimeShare } from '#shared/ttrpc/time-share.ts'
import { type ForwardWorld, forwardWorld, gone, stopped } from '#test/support/forward-world.ts'

const MiB = 1024 * 1024
/** What Node reads of a socket at once. */
const READ_BYTES = 64 * 1024
/** The portion credit is given in. */
const CREDIT_BYTES = WINDOW_BYTES / 4

t.test('a hostile guest', async (t) => {
  const connected = Buffer.of(answers.connected)
  const guests: Readonly<Record<string, (carrier: Socket) => void>> = {
    'that closes at once': (carrier) => carrier.destroy(),
    'that answers what is no answer': (carrier) => carrier.write(Buffer.of(7)),
    'that answers with noise': (carrier) => carrier.write(Buffer.alloc(100_000, 0xaa)),
    'that sends a frame beyond all measure': (carrier) => carrier.write(Buffer.concat([connected, header('data', 0xff_ffff), Buffer.alloc(1000)])),
    'that sends more than it may': (carrier) => {
      // At once, so that nothing can have been taken meanwhile.
      const frame = Buffer.concat([header('data', WINDOW_BYTES), Buffer.alloc(WINDOW_BYTES)])
      carrier.write(Buffer.concat([connected, ...Array.from({ length: 100 }, () => frame)]))
    },
    'that gives credit for nothing': (carrier) => carrier.write(Buffer.concat([connected, header('credit', WINDOW_BYTES)])),
    'that is done before anything': (carrier) => carrier.write(Buffer.concat([connected, header('done')])),
    'that goes on after its end': (carrier) => carrier.write(Buffer.concat([connected, header('end'), header('data', 3), Buffer.from('abc')])),
    'that stops in the middle of a frame': (carrier) => carrier.end(Buffer.concat([connected, header('data', 1000), Buffer.alloc(10)])),
  }
  for (const [name, guest] of Object.entries(guests)) {
    const world = await forwardWorld(t, (carrier) => guest(carrier.resume()))
    const client = await world.dial(80)
    // Paused where it gets too much: nothing shall be taken.
    if (name !== 'that sends more than it may') client.resume()
    // After the guest's end, which is a true one, there is nothing to reset any more.
    if (name === 'that goes on after its end') t.ok(await once(client, 'end'), name)
    else t.match((await once(client, 'error'))[0], { code: 'ECONNRESET' }, name)
    client.destroy()
    await gone(world.carriers)
  }
})

t.test('a hostile guest and an upload', async (t) => {
  await t.test('credit for what is left unread holds the client up', async (t) => {
    const { world, client, guest, end } = await attacked(t)
    client.write(Buffer.alloc(64 * MiB))
    let credits = 0
    await stopped(() => end.bytesWritten, () => {
      // Never more than it must have sent by now, or this would be another attack.
      for (; end.bytesWritten >= (credits + 2) * CREDIT_BYTES; credits++) guest.write(header('credit', CREDIT_BYTES))
    })
    t.ok(client.writableLength > 0, 'not all of it was taken')
    t.ok(end.writableLength < 2 * WINDOW_BYTES, `${end.writableLength} bytes are queued after ${credits} credits`)
    const reset = once(client, 'error')
    guest.destroy()
    t.match((await reset)[0], { code: 'ECONNRESET' })
    await gone(world.carriers)
  })
  await t.test('credit beyond what was sent resets it', async (t) => {
    const { world, client, guest } = await attacked(t)
    const reset = once(client, 'error')
    client.write(Buffer.alloc(64 * MiB))
    await once(guest.resume(), 'data')
    const giving = setInterval(() => guest.pause().write(header('credit', WINDOW_BYTES)), 1)
    t.match((await reset)[0], { code: 'ECONNRESET' })
    clearInterval(giving)
    guest.resume()
    await gone(world.carriers)
  })
  await t.test('credit in small coins is refused', async (t) => {
    const { world, client, guest } = await attacked(t)
    const reset = once(client, 'error')
    client.write(Buffer.alloc(2 * WINDOW_BYTES))
    let received = 0
    const more = Promise.withResolvers<string>()
    guest.on('data', (chunk) => {
      const had = received
      received += chunk.length
      if (had >= WINDOW_BYTES) more.resolve('sent for it')
      else if (received >= WINDOW_BYTES) guest.write(header('credit', 1))
    })
    guest.resume()
    const ended = await Promise.race([reset, more.promise])
    t.match(ended, [{ code: 'ECONNRESET' }])
    client.destroy()
    await gone(world.carriers)
  })
})

t.test('a hostile guest and a download', async (t) => {
  const { world, client, guest, end } = await attacked(t)
  // Most of what Node reads of a paused socket all the same.
  client.resume().write(Buffer.alloc(WINDOW_BYTES))
  const opened = PORT_BYTES + 4 + WINDOW_BYTES
  while (end.bytesWritten < opened) await sleep(1)
  const frame = Buffer.concat([header('data', CREDIT_BYTES), Buffer.alloc(CREDIT_BYTES)])
  let sent = 0
  await stopped(() => end.bytesWritten, () => {
    // What it may by the credits it has been given and does not read.
    const may = Math.min(64 * MiB, WINDOW_BYTES + ((end.bytesWritten - opened) / 4) * CREDIT_BYTES)
    for (; sent + CREDIT_BYTES <= may; sent += CREDIT_BYTES) guest.write(frame)
  })
  t.ok(end.writableLength <= 4, `${end.writableLength} bytes of credit are queued after ${sent} bytes`)
  const reset = once(client, 'error')
  // Some of it may wait to be given back.
  guest.write(Buffer.concat(Array.from({ length: 9 }, () => frame)))
  t.match((await reset)[0], { code: 'ECONNRESET' }, 'it may not go on without reading')
  guest.destroy()
  await gone(world.carriers)
})

t.test('a hostile guest that sends a byte a frame', async (t) => {
  const ones = Buffer.concat(Array.from({ length: WINDOW_BYTES }, () => Buffer.concat([header('data', 1), Buffer.of(0x41)])))
  const tiny = (count: number) => ones.subarray(0, count * 5)
  await t.test('costs no more than its bytes when nobody takes them', async (t) => {
    const { world, client, guest, end } = await attacked(t)
    client.pause()
    const credit = creditOf(guest)
    const frame = Buffer.concat([header('data', CREDIT_BYTES), Buffer.alloc(CREDIT_BYTES)])
    await stopped(() => credit.given, () => {
      for (; credit.left === WINDOW_BYTES; credit.left -= CREDIT_BYTES) guest.write(frame)
    })
    const { left, given } = credit
    const buffers = queryObjects(Buffer, { format: 'count' })
    const expected = end.bytesRead + left * 5
    guest.write(tiny(left))
    while (end.bytesRead < expected) await sleep(1)
    const grown = queryObjects(Buffer, { format: 'count' }) - buffers
    t.ok(grown < 1000, `${left} frames are held in ${grown} buffers`)
    client.resume()
    while (client.bytesRead < given) await sleep(1)
    t.equal(client.bytesRead, given, 'and all of them come')
    client.resetAndDestroy()
    guest.resume()
    await gone(world.carriers)
  })
  await t.test('has its turns, as everybody', async (t) => {
    const { world, client, guest, end } = await attacked(t)
    const credit = creditOf(guest)
    client.resume()
    let [inTurn, most] = [0, 0]
    end.on('data', (chunk) => (inTurn += chunk.length))
    while (client.bytesRead < MiB) {
      guest.write(tiny(credit.left))
      credit.left = 0
      await turn()
      most = Math.max(most, inTurn)
      inTurn = 0
    }
    t.ok(most <= 2 * READ_BYTES, `${most} bytes of frames in one turn of the event loop`)
    client.resetAndDestroy()
    guest.resume()
    await gone(world.carriers)
  })
  await t.test('rests when its pod has had its share of the time', async (t) => {
    const rests = [1, 3_600_000]
    t.capture(TimeShare.prototype, 'spend', () => rests.shift() ?? 0)
    const { world, client, guest, end } = await attacked(t)
    guest.write(tiny(1))
    await once(client, 'data')
    guest.write(tiny(1))
    await once(client, 'data')
    t.ok(end.isPaused(), 'after a first rest it was read again, and rests once more')
    client.resetAndDestroy()
    guest.resume()
    await gone(world.carriers)
  })
})

/** A forward to a guest that is in the test's hands, and the sandboxer's end of its carrier. Nothing is read at first. */
async function attacked(t: Test): Promise<{ world: ForwardWorld; client: Socket; guest: Socket; end: Socket }> {
  const { promise: asked, resolve } = Promise.withResolvers<Socket>()
  const world = await forwardWorld(t, (carrier) => void carrier.once('data', () => resolve(carrier.pause())))
  const client = await world.dial(80)
  const guest = await asked
  guest.write(Buffer.of(answers.connected))
  const [end] = world.ends
  if (end === undefined) throw new Error('nobody dialled the guest')
  return { world, client, guest, end }
}

/** Reads what comes to the guest: what it may send now, and all it ever might. */
function creditOf(guest: Socket): { left: number; given: number } {
  const credit = { left: WINDOW_BYTES, given: WINDOW_BYTES }
  const take = (bytes: number) => {
    credit.left += bytes
    credit.given += bytes
  }
  const parser = new FrameParser({ data() {}, credit: take, end() {}, done() {} })
  guest.on('data', (chunk: Buffer) => parser.push(chunk)).resume()
  return credit
}
