/** The little of ELF that the image needs: which libraries a program wants, and what a kernel module says of itself. */

/** elf(5), 64-bit little endian. */
const SECTION_DYNAMIC = 6
const SECTION_STRINGS = 3
const TAG_NULL = 0n
const TAG_NEEDED = 1n
const SECTION_HEADER_BYTES = 64
const DYNAMIC_ENTRY_BYTES = 16

interface Section {
  readonly name: string
  readonly type: number
  readonly link: number
  readonly bytes: Buffer
}

export function isElf(file: Buffer): boolean {
  return file.length > 64 && file.readUInt32BE(0) === 0x7f454c46 && file[4] === 2 && file[5] === 1
}

/** The DT_NEEDED names of a program or library, in the order given; none for a static one. */
export function neededLibraries(file: Buffer): string[] {
  const all = sections(file)
  const dynamic = all.find((section) => section.type === SECTION_DYNAMIC)
  const names = dynamic === undefined ? undefined : all[dynamic.link]
  if (dynamic === undefined || names?.type !== SECTION_STRINGS) return []
  const needed: string[] = []
  for (let at = 0; at + DYNAMIC_ENTRY_BYTES <= dynamic.bytes.length; at += DYNAMIC_ENTRY_BYTES) {
    const tag = dynamic.bytes.readBigInt64LE(at)
    if (tag === TAG_NULL) break
    if (tag === TAG_NEEDED) needed.push(text(names.bytes, Number(dynamic.bytes.readBigUInt64LE(at + 8))))
  }
  return needed
}

/** A kernel module's .modinfo as pairs; keys such as "softdep" may repeat. */
export function moduleInfo(file: Buffer): readonly (readonly [key: string, value: string])[] {
  const info = sections(file).find((section) => section.name === '.modinfo')
  if (info === undefined) return []
  const entries = info.bytes.toString('latin1').split('\0').filter((entry) => entry.includes('='))
  return entries.map((entry) => {
    const at = entry.indexOf('=')
    return [entry.slice(0, at), entry.slice(at + 1)] as const
  })
}

function sections(file: Buffer): Section[] {
  const offset = Number(file.readBigUInt64LE(40))
  const count = file.readUInt16LE(60)
  const namesIndex = file.readUInt16LE(62)
  const headers = Array.from({ length: count }, (_, index) => {
    const at = offset + index * SECTION_HEADER_BYTES
    const start = Number(file.readBigUInt64LE(at + 24))
    const bytes = file.subarray(start, start + Number(file.readBigUInt64LE(at + 32)))
    return { nameAt: file.readUInt32LE(at), type: file.readUInt32LE(at + 4), link: file.readUInt32LE(at + 40), bytes }
  })
  const names = headers[namesIndex]?.bytes ?? Buffer.alloc(0)
  return headers.map(({ nameAt, type, link, bytes }) => ({ name: text(names, nameAt), type, link, bytes }))
}

function text(strings: Buffer, at: number): string {
  return strings.toString('latin1', at, strings.indexOf(0, at))
}
