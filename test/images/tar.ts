/**
 * A deterministic ustar writer (POSIX.1-1988): the same entries make the same bytes, whoever runs it and when. Only
 * what image layers and OCI archives of ours need: files, directories, symbolic links, names up to 100 bytes.
 */

export type TarEntry = Readonly<
  { readonly name: string; readonly mode?: number; readonly uid?: number; readonly gid?: number } & (
    | { readonly kind: 'file'; readonly content: string | Uint8Array }
    | { readonly kind: 'directory' }
    | { readonly kind: 'symlink'; readonly target: string }
  )
>

const blockBytes = 512
const nameBytesMax = 100

const types = { file: '0', symlink: '2', directory: '5' } as const
const modes = { file: 0o644, symlink: 0o777, directory: 0o755 } as const

/** The entries as one archive, in the order given. */
export function tar(entries: readonly TarEntry[]): Buffer {
  const blocks: Buffer[] = []
  for (const entry of entries) {
    const content = entry.kind === 'file' ? Buffer.from(entry.content) : Buffer.alloc(0)
    blocks.push(header(entry, content.length), content, Buffer.alloc(padding(content.length)))
  }
  // Two empty blocks end an archive.
  blocks.push(Buffer.alloc(2 * blockBytes))
  return Buffer.concat(blocks)
}

function padding(bytes: number): number {
  return (blockBytes - (bytes % blockBytes)) % blockBytes
}

function header(entry: TarEntry, size: number): Buffer {
  const block = Buffer.alloc(blockBytes)
  const name = entry.kind === 'directory' ? `${entry.name}/` : entry.name
  text(block, 0, nameBytesMax, name)
  octal(block, 100, 8, entry.mode ?? modes[entry.kind])
  octal(block, 108, 8, entry.uid ?? 0)
  octal(block, 116, 8, entry.gid ?? 0)
  octal(block, 124, 12, size)
  octal(block, 136, 12, 0)
  text(block, 156, 1, types[entry.kind])
  text(block, 157, nameBytesMax, entry.kind === 'symlink' ? entry.target : '')
  text(block, 257, 8, 'ustar\u000000')
  // The checksum is taken with its own field full of spaces.
  text(block, 148, 8, ' '.repeat(8))
  const sum = block.reduce((total, byte) => total + byte, 0)
  text(block, 148, 8, `${sum.toString(8).padStart(6, '0')}\0 `)
  return block
}

function text(block: Buffer, at: number, bytesMax: number, value: string): void {
  const bytes = Buffer.from(value)
  if (bytes.length > bytesMax) throw new Error(`tar: "${value}" is longer than ${bytesMax} bytes`)
  bytes.copy(block, at)
}

function octal(block: Buffer, at: number, bytes: number, value: number): void {
  text(block, at, bytes, `${value.toString(8).padStart(bytes - 1, '0')}\0`)
}
