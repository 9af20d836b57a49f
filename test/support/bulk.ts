/** Output too large to look at: a block of text that is written again and again, and the digest of what a log has of it. */
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { random } from './random.ts'

export const BLOCK_BYTES = 1024 * 1024

/** Longer than the 16 KiB at which containerd splits a line in its log. */
const LINE_BYTES_MAX = 20_000

/** Hexadecimal digits in lines of very different lengths; the last one ends with the block. */
export function blockOfLines(seed: number): Buffer {
  const next = random(seed)
  const block = Buffer.alloc(BLOCK_BYTES)
  for (let at = 0; at < BLOCK_BYTES; at += 8) block.write(next().toString(16).padStart(8, '0'), at)
  for (let at = next() % LINE_BYTES_MAX; at < BLOCK_BYTES; at += 1 + (next() % LINE_BYTES_MAX)) block[at] = newline
  block[BLOCK_BYTES - 1] = newline
  return block
}

export interface Digest {
  readonly bytes: number
  readonly sha256: string
}

/** Of everything `pieces` yields. */
export function digestOf(pieces: Iterable<Buffer>): Digest {
  const hash = createHash('sha256')
  let bytes = 0
  for (const piece of pieces) {
    hash.update(piece)
    bytes += piece.length
  }
  return { bytes, sha256: hash.digest('hex') }
}

/** Of what a container wrote to standard output, from its log in CRI's format (see test/cri/log.ts). */
export async function digestOfLog(path: string): Promise<Digest> {
  const hash = createHash('sha256')
  let bytes = 0
  let rest = Buffer.alloc(0)
  for await (const chunk of createReadStream(path, { highWaterMark: BLOCK_BYTES })) {
    if (!Buffer.isBuffer(chunk)) throw new Error('a stream of bytes')
    const piece = Buffer.concat([rest, chunk])
    let start = 0
    for (let end = piece.indexOf(newline); end >= 0; end = piece.indexOf(newline, start)) {
      bytes += entry(piece.subarray(start, end + 1), hash)
      start = end + 1
    }
    rest = piece.subarray(start)
  }
  if (rest.length > 0) throw new Error(`the log ends within an entry: ${rest.toString('utf8', 0, 80)}`)
  return { bytes, sha256: hash.digest('hex') }
}

/** `<time> stdout <F|P> <text>\n`: adds the text, and the newline unless the line goes on in the next entry. */
function entry(line: Buffer, hash: Hash): number {
  const head = line.indexOf(' stdout ')
  const tag = line.toString('latin1', head + 8, head + 10)
  if (head < 0 || (tag !== 'F ' && tag !== 'P ')) throw new Error(`not an entry of standard output: ${line.toString('utf8', 0, 80)}`)
  const text = line.subarray(head + 10, tag === 'F ' ? line.length : line.length - 1)
  hash.update(text)
  return text.length
}

const newline = 0x0a
