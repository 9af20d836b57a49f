/** When a guest's clock is stepped, and by how much. */
import t from 'tap'
import { clockStep } from '#host/sandbox/clock.ts'

const ms = (value: number) => BigInt(value) * 1_000_000n
const step = (offsetMs: number, roundTripMs: number) => clockStep({ offsetNanos: ms(offsetMs), roundTripNanos: ms(roundTripMs) })

t.test('a clock that may be right is left alone', async (t) => {
  for (const [offset, roundTrip] of [[0, 0], [20, 0], [-20, 5], [300, 300], [5000, 5000], [320, 300]] as const) {
    t.equal(step(offset, roundTrip), 0n, `${offset} ms ahead, or ${roundTrip} ms under way`)
  }
})

t.test('one that is off whatever the way took is stepped to the middle of what it may be', async (t) => {
  t.equal(step(3_600_000, 10), -ms(3_599_995))
  t.equal(step(-60_000, 10), ms(60_005))
  t.equal(step(400, 300), -ms(250))
  t.equal(step(21, 0), -ms(21))
})

t.test('an answer that no clock gives asks for nothing that cannot be asked', async (t) => {
  t.equal(clockStep({ offsetNanos: -(2n ** 63n), roundTripNanos: 0n }), 0n)
  t.equal(clockStep({ offsetNanos: 2n ** 63n - 1n, roundTripNanos: 0n }), -(2n ** 63n - 1n))
})
