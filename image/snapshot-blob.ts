/**
 * Takes Node's code cache of its own modules out of a start-up snapshot.
 *
 * Node either keeps what V8 has compiled in the heap and adds such a cache beside it, or leaves out both
 * (`withoutCodeCache`). A guest wants the first alone: what it runs is compiled in the heap, and the cache is more than
 * half of the file, which would be read at every start. The layout is Node 24's (src/node_snapshotable.cc), little endian:
 *
 *    u32     u8     string    string  string     u32     …     u64     count × { string id, bytes data }
 *   +-------+------+---------+------+----------+-------+-----+-------+--------------------------------+
 *   | magic | type | version | arch | platform | flags | …   | count | code cache                     |
 *   +-------+------+---------+------+----------+-------+-----+-------+--------------------------------+
 *
 * A string, and bytes, are a u64 of their length and themselves. The cache is the only list that ends with the file.
 */

const MAGIC = 0x01_43_da_19

/** SnapshotFlags::kWithoutCodeCache: what the file says of itself afterwards. */
const WITHOUT_CODE_CACHE = 1

/** What begins a code cache: V8's SerializedCodeData::kMagicNumber, of version 13.6. */
const CODE_CACHE_MAGIC = Buffer.from([0x89, 0x06, 0xde, 0xc0])

/** Longer than the name of any of Node's modules. */
const ID_BYTES_MAX = 128

/** Throws when `blob` has another layout than Node 24's, so a Node that changes it is found out by the build. */
export function stripCodeCache(blob: Buffer): Buffer {
  const flagsAt = offsetOfFlags(blob)
  const cacheAt = offsetOfCache(blob, flagsAt)
  const stripped = Buffer.concat([blob.subarray(0, cacheAt), Buffer.alloc(8)])
  stripped.writeUInt32LE(stripped.readUInt32LE(flagsAt) | WITHOUT_CODE_CACHE, flagsAt)
  return stripped
}

function offsetOfFlags(blob: Buffer): number {
  if (blob.length < 64 || blob.readUInt32LE(0) !== MAGIC) throw new Error('this is no start-up snapshot of Node 24')
  let at = 5
  for (let strings = 0; strings < 3; strings++) at = endOfBytes(blob, at) ?? blob.length
  if (at + 4 > blob.length) throw new Error('the start-up snapshot ends within its head')
  return at
}

/** The list's first entry is the first code cache in the file whose entries reach exactly to the end. */
function offsetOfCache(blob: Buffer, from: number): number {
  for (let magicAt = blob.indexOf(CODE_CACHE_MAGIC, from); magicAt >= 0; magicAt = blob.indexOf(CODE_CACHE_MAGIC, magicAt + 1)) {
    // Before it: the data's length, the id, the id's length, the count.
    for (let idBytes = 1; idBytes <= ID_BYTES_MAX; idBytes++) {
      const countAt = magicAt - 8 - idBytes - 8 - 8
      if (countAt >= from && uint64(blob, countAt + 8) === idBytes && isCache(blob, countAt)) return countAt
    }
  }
  throw new Error('the start-up snapshot has no code cache where Node 24 puts it')
}

function isCache(blob: Buffer, countAt: number): boolean {
  const count = uint64(blob, countAt)
  let at: number | undefined = countAt + 8
  for (let entry = 0; entry < count && at !== undefined; entry++) {
    const idEnd = endOfBytes(blob, at)
    at = idEnd === undefined ? undefined : endOfBytes(blob, idEnd)
  }
  return at === blob.length
}

/** Where the length-prefixed bytes at `at` end; undefined when that is beyond the file. */
function endOfBytes(blob: Buffer, at: number): number | undefined {
  if (at + 8 > blob.length) return undefined
  const end = at + 8 + uint64(blob, at)
  return end <= blob.length ? end : undefined
}

function uint64(blob: Buffer, at: number): number {
  return Number(blob.readBigUInt64LE(at))
}
