import t from 'tap'
import { Handshake } from '#host/sandbox/handshake.ts'
import { nowMs, Trace } from '#host/sandbox/trace.ts'

const mark = (name: string, boottimeNanos: bigint) => ({ name, boottimeNanos })

t.test('a mark that Hello and Ready both name is in the trace once, however often Ready comes', async (t) => {
  const trace = new Trace()
  const handshake = new Handshake(trace)
  const early = [mark('init', 10n), mark('agent-main', 20n)]
  const arrivedAtMs = nowMs()
  const versions = { protocolVersion: 1, agentVersion: '1', kernelVersion: '6', resumed: false }
  handshake.hello({ ...versions, boot: early, boottimeNanos: 30n, arrivedAtMs })
  handshake.said({ boot: [...early, mark('configured', 40n)], boottimeNanos: 50n, arrivedAtMs: arrivedAtMs + 1 })
  handshake.said({ boot: [mark('again', 60n)], boottimeNanos: 70n, arrivedAtMs: arrivedAtMs + 2 })
  await handshake.ready
  t.strictSame(
    trace.spans.map(({ name }) => name),
    ['guest.kernel', 'guest.init', 'guest.agent-main', 'ready', 'guest.configured'],
  )
})
