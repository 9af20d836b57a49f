import t from 'tap'
import { splitWrites } from '#shared/os/vsock/split.ts'
import { pattern } from './os-contract.ts'

const max = 16

t.test('every byte, in order, in pieces no longer than the limit', async (t) => {
  const bytes = pattern(4096)
  for (let seed = 1; seed <= 500; seed++) {
    const chunks: Buffer[] = []
    let total = 0
    for (let x = seed; chunks.length < seed % 12; ) {
      x = (Math.imul(x, 1664525) + 1013904223) >>> 0
      const length = (x >>> 24) % 50
      chunks.push(bytes.subarray(total, total + length))
      total += length
    }
    const pieces = splitWrites(chunks, max)
    const fits = pieces.every((piece) => piece.length > 0 && piece.length <= max)
    if (!fits || !Buffer.concat(pieces).equals(bytes.subarray(0, total))) t.fail(`seed ${seed}`)
  }
  t.pass('500 seeds')
})

t.test('long chunks are cut, not copied', async (t) => {
  const chunk = pattern(40)
  const pieces = splitWrites([chunk], max)
  t.same(pieces.map((piece) => piece.length), [16, 16, 8])
  t.ok(pieces.every((piece) => piece.buffer === chunk.buffer))
})

t.test('short chunks are joined', async (t) => {
  const pieces = splitWrites([pattern(5), pattern(5), pattern(5), pattern(5)], max)
  t.same(pieces.map((piece) => piece.length), [15, 5])
  t.same(splitWrites([], max), [])
  t.same(splitWrites([Buffer.alloc(0)], max), [])
})
