/**
 * Takes the ELF kernel out of a bzImage, so that the guest need not unpack it on every start.
 *
 * The setup header (Documentation/x86/boot.rst, protocol 2.08) says where the payload is; Debian compresses it in
 * LZ4's legacy frame: a magic, then blocks of `u32le length, data`, each of which yields at most 8 MiB. The last four
 * bytes of the payload are the size of the unpacked kernel.
 */

const SETUP_MAGIC = 0x53726448
const LZ4_LEGACY_MAGIC = 0x184c2102
const SECTOR_BYTES = 512

/** Errors: not a bzImage, another compression (naming its first bytes), damaged data. */
export function unpackKernel(bzImage: Buffer): Buffer {
  if (bzImage.readUInt32LE(0x202) !== SETUP_MAGIC) throw new Error('the kernel is not a bzImage: it has no HdrS mark')
  const setupSectors = bzImage[0x1f1] === 0 ? 4 : (bzImage[0x1f1] ?? 4)
  const start = (setupSectors + 1) * SECTOR_BYTES + bzImage.readUInt32LE(0x248)
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c))
  if (payload.readUInt32LE(0) !== LZ4_LEGACY_MAGIC) {
    const magic = payload.subarray(0, 4).toString('hex')
    throw new Error(`the kernel's payload starts with ${magic}: only LZ4's legacy frame (02214c18) can be unpacked`)
  }
  const kernel = Buffer.alloc(payload.readUInt32LE(payload.length - 4))
  const written = unpackBlocks(payload.subarray(4, payload.length - 4), kernel)
  if (written !== kernel.length) throw new Error(`the kernel unpacked to ${written} bytes, its header says ${kernel.length}`)
  return kernel
}

function unpackBlocks(blocks: Buffer, out: Buffer): number {
  let written = 0
  for (let at = 0; at + 4 <= blocks.length; ) {
    const length = blocks.readUInt32LE(at)
    written = unpackBlock(blocks.subarray(at + 4, at + 4 + length), out, written)
    at += 4 + length
  }
  return written
}

/** One LZ4 block: literals, then a match into what was written before, and so on. Answers the new end of the output. */
function unpackBlock(block: Buffer, out: Buffer, from: number): number {
  let at = 0
  let to = from
  const next = () => {
    const byte = block[at++]
    if (byte === undefined) throw new Error('an LZ4 block of the kernel ends early')
    return byte
  }
  const length = (nibble: number) => {
    let total = nibble
    for (let byte = nibble === 15 ? 255 : 0; byte === 255; total += byte) byte = next()
    return total
  }
  while (at < block.length) {
    const token = next()
    const literals = length(token >> 4)
    to += block.copy(out, to, at, at + literals)
    at += literals
    if (at >= block.length) break
    const distance = next() | (next() << 8)
    const match = length(token & 15) + 4
    if (distance === 0 || distance > to) throw new Error('an LZ4 block of the kernel refers outside of its output')
    // A match may overlap what it writes, which then repeats: byte by byte, unless it lies apart.
    if (distance >= match) out.copyWithin(to, to - distance, to - distance + match)
    else for (let i = 0; i < match; i++) out[to + i] = out[to + i - distance] ?? 0
    to += match
  }
  return to
}
