/** What a sandbox makes of its guest's Hello and Ready, whichever of the answers was lost. */
import t from 'tap'
import type { Hello } from '#host/sandbox/guest.ts'
import { Handshake } from '#host/sandbox/handshake.ts'
import { guestPeer, type PeerSandbox } from '#host/sandbox/peer.ts'
import type { StateKind } from '#host/sandbox/state.ts'
import { nowMs, Trace } from '#host/sandbox/trace.ts'
import { RuntimeError } from '#shared/errors.ts'
import { sandboxRecord } from '#test/support/record.ts'

const signal = new AbortController().signal
const hello = (resumed: boolean): Hello => ({
  protocolVersion: 1, agentVersion: '1', kernelVersion: '6', resumed, boot: [], boottimeNanos: 1n, arrivedAtMs: nowMs(),
})
const ready = () => ({ boot: [], boottimeNanos: 2n, arrivedAtMs: nowMs() })

function peerOf() {
  const handshake = new Handshake(new Trace())
  const killed: string[] = []
  const state: { kind: StateKind } = { kind: 'starting' }
  const sandbox: PeerSandbox = {
    id: 's',
    state,
    get guest(): never {
      throw new RuntimeError('FAILED_PRECONDITION', 'none runs')
    },
    ledger: { record: sandboxRecord(), note() {} },
    async kill(reason) {
      killed.push(reason)
    },
  }
  const backend = { capabilities: { sharing: 'none', ownKernel: false, portForward: false, blockHotplug: false, snapshot: false } as const }
  return { peer: guestPeer(sandbox, handshake, backend, () => 'info'), handshake, killed, become: (kind: StateKind) => void (state.kind = kind) }
}

t.test('a guest whose Ready, or the answer to it, was lost goes on where it was', async (t) => {
  const { peer, handshake, killed, become } = peerOf()
  t.match(await peer.hello(hello(false), signal), { sandboxId: 's' })
  t.match(await peer.hello(hello(true), signal), { sandboxId: 's' }, 'its Ready never came')
  peer.ready(ready())
  await handshake.ready
  become('ready')
  t.match(await peer.hello(hello(true), signal), { sandboxId: 's' }, 'it has not heard that Ready came')
  peer.ready(ready())
  t.strictSame(killed, [])
})

t.test('a guest that has not heard the answer to its Hello says it again', async (t) => {
  const { peer, handshake } = peerOf()
  await peer.hello(hello(false), signal)
  t.match(await peer.hello(hello(false), signal), { sandboxId: 's' })
  t.equal(handshake.waitingFor, 'ready')
})

t.test('a guest that knows nothing of its ready pod has started anew, and its pod is ended', async (t) => {
  const { peer, killed, become } = peerOf()
  become('ready')
  await t.rejects(async () => peer.hello(hello(false), signal), { code: 'FAILED_PRECONDITION', message: /a fresh boot cannot take its place/ })
  t.match(killed, [/started anew/])
})

t.test('a guest that starts anew between its Ready and the end of the start is refused, and its pod ended once that is ready', async (t) => {
  const { peer, handshake, killed, become } = peerOf()
  await peer.hello(hello(false), signal)
  peer.ready(ready())
  await handshake.ready
  await t.rejects(async () => peer.hello(hello(false), signal), { code: 'FAILED_PRECONDITION', message: /started anew/ })
  t.strictSame(killed, [])
  become('ready')
  await t.rejects(async () => peer.hello(hello(false), signal), { code: 'FAILED_PRECONDITION' }, 'it says its Hello until it is heard')
  t.match(killed, [/started anew/])
})

t.test('a guest that was configured by somebody else is not this start’s', async (t) => {
  const { peer, handshake } = peerOf()
  await t.rejects(async () => peer.hello(hello(true), signal), { code: 'FAILED_PRECONDITION', message: /configured before this start/ })
  t.equal(handshake.waitingFor, 'hello')
})

t.test('nobody is expected where nothing runs', async (t) => {
  const { peer, become } = peerOf()
  for (const kind of ['created', 'stopped', 'gone', 'adopting'] as const) {
    become(kind)
    await t.rejects(async () => peer.hello(hello(true), signal), { code: 'FAILED_PRECONDITION', message: /no guest is expected/ }, kind)
  }
})
