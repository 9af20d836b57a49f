import t from 'tap'
import { unpackKernel } from '../../image/kernel.ts'

/** A bzImage of one setup sector around an LZ4 legacy frame of these blocks. */
function bzImage(size: number, ...blocks: readonly (readonly number[])[]): Buffer {
  const payload = Buffer.concat([u32(0x184c2102), ...blocks.flatMap((block) => [u32(block.length), Buffer.from(block)]), u32(size)])
  const header = Buffer.alloc(1024)
  header[0x1f1] = 1
  header.writeUInt32LE(0x53726448, 0x202)
  header.writeUInt32LE(payload.length, 0x24c)
  return Buffer.concat([header, payload])
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

const bytes = (text: string) => [...Buffer.from(text)]

t.test('literals, a match that repeats itself, and a second block that refers to the first', async (t) => {
  // Token: literal count << 4 | match length - 4; then the literals and the distance.
  const first = [0x30 | 5, ...bytes('abc'), 3, 0, 0x10, ...bytes('!')]
  const second = [0x10, ...bytes('-'), 5, 0, 0x00]
  t.equal(unpackKernel(bzImage(18, first, second)).toString(), 'abcabcabcabc!-abc!')
})

t.test('long lengths go on in further bytes', async (t) => {
  const literals = bytes('x'.repeat(15 + 255 + 3))
  const block = [0xf0 | 15, 255, 3, ...literals, 1, 0, 10, 0x00]
  t.equal(unpackKernel(bzImage(273 + 29, block)).toString(), 'x'.repeat(302))
})

t.test('what is damaged is told', async (t) => {
  t.throws(() => unpackKernel(Buffer.alloc(2048)), { message: /not a bzImage/ })
  t.throws(() => unpackKernel(bzImage(4, [0x10, 65, 9, 0, 0])), { message: /refers outside/ })
  t.throws(() => unpackKernel(bzImage(9, [0x10, 65])), { message: /unpacked to 1 bytes, its header says 9/ })
  t.throws(() => unpackKernel(bzImage(300, [0xf0, 255])), { message: /ends early/ })
  const other = bzImage(4, [0x10, 65])
  other.writeUInt32BE(0xfd377a58, 1024)
  t.throws(() => unpackKernel(other), { message: /starts with fd377a58/ })
})
