import t from 'tap'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { GuestPeer, Hello } from '#host/sandbox/guest.ts'
import { Handshake } from '#host/sandbox/handshake.ts'
import { nowMs, Trace } from '#host/sandbox/trace.ts'
import { WarmPeer } from '#host/sandbox/warm-peer.ts'

const hello = (more: Partial<Hello> = {}): Hello => ({
  protocolVersion: 1,
  agentVersion: '1',
  kernelVersion: '6',
  resumed: false,
  boot: [{ name: 'init', boottimeNanos: 5n }],
  boottimeNanos: 10n,
  arrivedAtMs: nowMs() - 60_000,
  ...more,
})

/** A sandbox that answers every Hello, and keeps it. */
function sandbox(): { readonly peer: GuestPeer; readonly hellos: Hello[]; readonly calls: string[] } {
  const hellos: Hello[] = []
  const calls: string[] = []
  const guest = { hostname: 'h', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 0, hugepagesMiB: 0, memoryLimitBytes: 0 }
  const network = { links: [], routes: [], neighbours: [] }
  const peer: GuestPeer = {
    id: 'pod',
    hello(said) {
      hellos.push(said)
      return { protocolVersion: 1, sandboxId: 'pod', guest, pidsLimit: 0, network, cards: [], storages: [], logLevel: 'info' }
    },
    ready: () => void calls.push('ready'),
    async prepare(id) {
      calls.push(`prepare ${id}`)
      throw new Error('none')
    },
    release: async (id) => void calls.push(`release ${id}`),
    created: (id) => void calls.push(`created ${id}`),
    publish: async (sequence) => void calls.push(`publish ${sequence}`),
  }
  return { peer, hellos, calls }
}

const forever = new AbortController().signal

t.test('a Hello waits for the sandbox, which answers it and whatever follows', async (t) => {
  const warm = new WarmPeer('_warm-1')
  t.equal(warm.waits, false)
  const answer = warm.hello(hello(), forever)
  await warm.greeted
  t.equal(warm.waits, true)
  t.equal(warm.id, '_warm-1')
  t.throws(() => warm.ready({ boot: [], boottimeNanos: 1n, arrivedAtMs: 1 }), { code: 'FAILED_PRECONDITION' })
  t.throws(() => warm.created('c', { startMs: 1, endMs: 2 }), { code: 'FAILED_PRECONDITION' })
  for (const call of [() => warm.prepare('c', forever), () => warm.release('c'), () => warm.publish(1n, 'c', { topic: '', typeUrl: '', value: Buffer.alloc(0) }, forever)])
    await t.rejects(async () => void (await call()), { code: 'FAILED_PRECONDITION', message: /_warm-1 has no pod yet/ })

  const { peer, hellos, calls } = sandbox()
  const beforeMs = nowMs()
  warm.handTo(peer)
  t.match(await answer, { sandboxId: 'pod' })
  t.equal(warm.id, 'pod')
  t.equal(warm.waits, false)
  t.match(hellos, [{ warm: true }])
  t.ok((hellos[0]?.arrivedAtMs ?? 0) >= beforeMs, 'for the pod it arrives only now')
  warm.ready({ boot: [], boottimeNanos: 1n, arrivedAtMs: 1 })
  warm.created('c', { startMs: 1, endMs: 2 })
  await warm.release('c')
  t.same(calls, ['ready', 'created c', 'release c'])
  t.match(await warm.hello(hello({ resumed: true }), forever), { sandboxId: 'pod' }, 'also after its link was lost')
  t.match(hellos[1], { resumed: true, warm: false })
})

t.test('the newest Hello counts, and none whose link has ended', async (t) => {
  const warm = new WarmPeer('_warm-1')
  const first = warm.hello(hello(), forever)
  const link = new AbortController()
  const second = warm.hello(hello({ agentVersion: '2' }), link.signal)
  await t.rejects(Promise.resolve(first), { code: 'ABORTED' })
  const gone = t.rejects(Promise.resolve(second), { message: 'gone' })
  link.abort(new Error('gone'))
  await gone
  t.equal(warm.waits, false, 'it will call again')
  const { peer, hellos } = sandbox()
  warm.handTo(peer)
  await nextTurn()
  t.same(hellos, [])
  t.match(await warm.hello(hello(), forever), { sandboxId: 'pod' })
  t.match(hellos, [{ warm: true }], 'late, and yet from before the pod')
})

t.test('a guest that can be no pod’s is known at once', async (t) => {
  for (const bad of [hello({ protocolVersion: 0 }), hello({ resumed: true })]) {
    const warm = new WarmPeer('_warm-1')
    t.throws(() => warm.hello(bad, forever), { code: 'FAILED_PRECONDITION' })
    await t.rejects(warm.greeted, { code: 'FAILED_PRECONDITION' })
    t.equal(warm.waits, false)
  }
})

t.test('the trace of a pod has nothing of the boot before it, and all of a cold start that follows', async (t) => {
  const trace = new Trace()
  const handshake = new Handshake(trace)
  const names = () => trace.spans.map(({ name }) => name)
  handshake.hello(hello({ warm: true, arrivedAtMs: nowMs() }))
  t.equal(handshake.waitingFor, 'ready')
  t.same(names(), [])
  const early = handshake.ready
  handshake.again()
  t.equal(handshake.waitingFor, 'hello')
  handshake.hello(hello({ arrivedAtMs: nowMs() }))
  handshake.said({ boot: [{ name: 'init', boottimeNanos: 5n }, { name: 'configured', boottimeNanos: 20n }], boottimeNanos: 30n, arrivedAtMs: nowMs() })
  await handshake.ready
  t.not(handshake.ready, early)
  t.same(names(), ['guest.kernel', 'guest.init', 'ready', 'guest.configured'])
})
