import t from 'tap'
import { frameHeaderBytes, FrameParser, keepBytes, writeFrameHeader } from '#shared/ttrpc/frame.ts'
import { frame } from '../support/ttrpc-raw.ts'

/** Parses chunks with a limit of 100 bytes and returns what came out, in words. */
function parse(...chunks: Buffer[]): { seen: string[]; parser: FrameParser } {
  const seen: string[] = []
  const parser = new FrameParser({
    frame: (id, type, flags, bytes, start, end) => {
      seen.push(`${id} ${type} ${flags} ${bytes.toString('utf8', start, end)}`)
    },
    oversize: (id, type, flags, length) => seen.push(`${id} ${type} ${flags} oversize ${length}`),
  }, 100)
  for (const chunk of chunks) parser.push(chunk)
  return { seen, parser }
}

/** Cuts bytes into pieces of `size`. */
function cut(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
}

t.test('a header is what the protocol draws', async (t) => {
  const header = Buffer.alloc(frameHeaderBytes + 2)
  writeFrameHeader(header, 1, 0x01020304, 0xfffefdfc, 3, 5)
  t.equal(header.toString('hex'), '0001020304fffefdfc030500')
})

const stream = Buffer.concat([
  frame(1, 1, 0, Buffer.from('one')),
  frame(3, 3, 5),
  frame(0xffff_ffff, 2, 0, Buffer.alloc(100, 'm')),
  frame(5, 1, 2, Buffer.alloc(101, 'x')),
  frame(7, 9, 255, Buffer.from('unknown type')),
  frame(9, 1, 0, Buffer.alloc(1000, 'y')),
  frame(11, 3, 0, Buffer.from('last')),
])
const expected = [
  '1 1 0 one',
  '3 3 5 ',
  `4294967295 2 0 ${'m'.repeat(100)}`,
  '5 1 2 oversize 101',
  '7 9 255 unknown type',
  '9 1 0 oversize 1000',
  '11 3 0 last',
]

t.test('frames come out the same however the bytes are cut', async (t) => {
  for (let size = 1; size <= 140; size++) t.same(parse(...cut(stream, size)).seen, expected, `pieces of ${size}`)
  t.same(parse(stream).seen, expected, 'in one piece')
  for (let at = 1; at < stream.length; at++) {
    const { seen } = parse(stream.subarray(0, at), Buffer.alloc(0), stream.subarray(at))
    if (seen.join() !== expected.join()) t.same(seen, expected, `cut at ${at}`)
  }
})

t.test('an oversize frame is told of when its header is there, and nothing of it is kept', async (t) => {
  const { seen, parser } = parse(frame(5, 1, 0, Buffer.alloc(0), 0xffff_ffff))
  t.same(seen, ['5 1 0 oversize 4294967295'])
  t.same(parser.partial, { receivedBytes: 0, header: { id: 5, type: 1, length: 0xffff_ffff } })
})

t.test('a stream that ends inside a frame says where', async (t) => {
  const whole = frame(5, 2, 0, Buffer.from('answer'))
  t.equal(parse(whole).parser.partial, undefined)
  t.same(parse(whole.subarray(0, 4)).parser.partial, { receivedBytes: 4 })
  t.same(parse(whole.subarray(0, 12)).parser.partial, { receivedBytes: 2, header: { id: 5, type: 2, length: 6 } })
})

t.test('a parser that was stopped by a frame hands out nothing more', async (t) => {
  const seen: number[] = []
  const parser: FrameParser = new FrameParser({
    frame: (id) => {
      seen.push(id)
      parser.stop()
    },
    oversize: () => {},
  }, 100)
  parser.push(stream)
  parser.push(stream)
  t.same(seen, [1])
})

t.test('kept bytes do not hold their chunk', async (t) => {
  const chunk = Buffer.alloc(64 * 1024, 'c')
  const kept = keepBytes(chunk, 10, 20)
  t.not(kept.buffer, chunk.buffer)
  t.ok(kept.buffer.byteLength <= Buffer.poolSize)
  t.equal(keepBytes(chunk, 0, 40 * 1024).buffer, chunk.buffer, 'unless they are most of it')
  t.equal(keepBytes(chunk, 10, 10).length, 0)
})
