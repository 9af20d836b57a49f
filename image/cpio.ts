/**
 * Writes the kernel's initramfs format: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
 * Owner, time and inode numbers are fixed, so equal content gives equal bytes.
 */

export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly content: Buffer }

const TYPE_DIRECTORY = 0o040000
const TYPE_FILE = 0o100000

/** The archive of these entries, in the order given; a directory must come before what it holds. */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.map((entry, index) => {
    const content = entry.kind === 'file' ? entry.content : Buffer.alloc(0)
    const type = entry.kind === 'file' ? TYPE_FILE : TYPE_DIRECTORY
    return record({ inode: index + 1, mode: type | entry.mode, path: entry.path, content })
  })
  return Buffer.concat([...parts, record({ inode: 0, mode: 0, path: 'TRAILER!!!', content: Buffer.alloc(0) })])
}

interface Record {
  readonly inode: number
  readonly mode: number
  readonly path: string
  readonly content: Buffer
}

/** Header, name and content, the last two each padded with zeros to a multiple of four. */
function record({ inode, mode, path, content }: Record): Buffer {
  const links = 1
  const nameBytes = Buffer.byteLength(path) + 1
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, nameBytes, 0]
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`
  return Buffer.concat([padded(Buffer.from(`${header}${path}\0`)), padded(content)])
}

function padded(bytes: Buffer): Buffer {
  const rest = bytes.length % 4
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(4 - rest)])
}
