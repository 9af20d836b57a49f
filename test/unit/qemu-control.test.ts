/** The QMP client against peers that behave, that misbehave and that fall silent. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type Socket, createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { connectQmp } from '#host/backends/qemu/control.ts'

const greeting = '{"QMP": {"version": {"qemu": {"major": 11}}, "capabilities": ["oob"]}}\r\n'
const forever = new AbortController().signal

interface Peer {
  readonly path: string
  /** The connection of the client */
  readonly connected: Promise<Socket>
}

/** A QEMU that greets, and answers what it has an answer for. */
async function peer(t: Test, answers: Readonly<Record<string, object>>, first = greeting): Promise<Peer> {
  const dir = await mkdtemp('/tmp/qmp-')
  const path = join(dir, 'q.sock')
  const { promise: connected, resolve } = Promise.withResolvers<Socket>()
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.write(first)
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk.toString()
      for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n')) {
        const { execute, id }: { execute: string; id: number } = JSON.parse(text.slice(0, end))
        text = text.slice(end + 1)
        const answer = answers[execute]
        if (answer !== undefined) socket.write(`${JSON.stringify({ id, ...answer })}\r\n`)
      }
    })
    sockets.push(socket)
    resolve(socket)
  })
  server.listen(path)
  await once(server, 'listening')
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await rm(dir, { recursive: true })
  })
  return { path, connected }
}

const wellBehaved = { qmp_capabilities: { return: {} }, 'query-status': { return: { running: true, status: 'running' } } }

t.test('negotiates, asks, hears why the VM ends', async (t) => {
  const { path, connected } = await peer(t, wellBehaved)
  const control = await connectQmp(path, forever)
  t.equal(await control.status(forever), 'running')
  t.equal(control.ending(), undefined)
  const socket = await connected
  // In two pieces, with another event between.
  socket.write('{"event": "RESUME", "timestamp": {"seconds": 1}}\r\n{"event": "SHUTDOWN", "data": {"guest": tr')
  setImmediate(() => socket.end('ue, "reason": "guest-shutdown"}}\r\n'))
  await control.announced
  await t.rejects(untilEnded(control), { code: 'UNAVAILABLE', message: /the connection ended/ })
  t.equal(control.ending(), 'the guest powered off')
  control.close()
})

t.test('the first that is said of a VM’s end is why it ended', async (t) => {
  const { path, connected } = await peer(t, wellBehaved)
  const control = await connectQmp(path, forever)
  ;(await connected).end('{"event": "GUEST_PANICKED", "data": {}}\r\n{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}\r\n{"event": "STOP"}\r\n')
  await t.rejects(untilEnded(control), { message: /the connection ended/ })
  t.match(control.ending(), /kernel panicked/)
  control.close()
})

t.test('a VM that was paused has ended, unless something else was said before', async (t) => {
  for (const [before, reason] of [['', /its VM was paused/], ['{"event": "GUEST_PANICKED", "data": {"action": "pause"}}\r\n', /kernel panicked/]] as const) {
    const { path, connected } = await peer(t, wellBehaved)
    const control = await connectQmp(path, forever)
    ;(await connected).write(`${before}{"event": "STOP", "timestamp": {"seconds": 1}}\r\n`)
    await control.announced
    t.match(control.ending(), reason)
    control.close()
  }
})

async function untilEnded(control: Awaited<ReturnType<typeof connectQmp>>): Promise<never> {
  for (;;) {
    await control.status(forever)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

t.test('an error answer is an error of that call only', async (t) => {
  const { path } = await peer(t, { ...wellBehaved, 'query-status': { error: { class: 'GenericError', desc: 'not now' } } })
  const control = await connectQmp(path, forever)
  await t.rejects(control.status(forever), { code: 'UNAVAILABLE', message: /not now/ })
  await t.rejects(control.status(forever), { message: /not now/ })
  control.close()
})

t.test('a VMM that does not answer holds nobody longer than the signal says', async (t) => {
  const { path } = await peer(t, { qmp_capabilities: { return: {} } })
  const control = await connectQmp(path, forever)
  const controller = new AbortController()
  const asked = control.status(controller.signal)
  controller.abort(new Error('too late'))
  await t.rejects(asked, { message: 'too late' })
  control.close()
})

t.test('a VMM that does not even greet', async (t) => {
  const { path } = await peer(t, {}, '')
  const controller = new AbortController()
  const connecting = connectQmp(path, controller.signal)
  controller.abort(new Error('frozen'))
  await t.rejects(connecting, { message: 'frozen' })
})

for (const [about, bytes] of [
  ['what is no JSON', 'SSH-2.0-OpenSSH_9.9\r\n'],
  ['a line without end', '{'.repeat(70_000)],
  ['a line too long', `${JSON.stringify({ QMP: 'x'.repeat(70_000) })}\n`],
] as const)
  t.test(`${about} ends the connection`, async (t) => {
    const { path } = await peer(t, {}, bytes)
    await t.rejects(connectQmp(path, forever), { code: 'UNAVAILABLE', message: /expected a line of QMP/ })
  })

t.test('answers nobody asked for are ignored, as are values of other shapes', async (t) => {
  const { path } = await peer(t, wellBehaved, `[]\n7\nnull\n"x"\n{"return": {}, "id": 99}\n{"event": 5}\n${greeting}`)
  const control = await connectQmp(path, forever)
  t.equal(await control.status(forever), 'running')
  control.close()
  await t.rejects(control.status(forever), { code: 'UNAVAILABLE', message: /closed/ })
})

t.test('nobody there', async (t) => {
  await t.rejects(connectQmp('/tmp/no-such-qmp.sock', forever), { code: 'UNAVAILABLE', message: /ENOENT/ })
})
