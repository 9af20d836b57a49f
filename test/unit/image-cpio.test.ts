/** What the fields say. That the kernel unpacks the archive is shown by every boot in test/integration. */
import t from 'tap'
import { type CpioEntry, cpio } from '../../image/cpio.ts'

const entries: CpioEntry[] = [
  { kind: 'directory', path: 'dev', mode: 0o755 },
  { kind: 'file', path: 'dev/odd-name', mode: 0o600, content: Buffer.from('12345') },
  { kind: 'file', path: 'empty', mode: 0o644, content: Buffer.alloc(0) },
]

t.test('fields, padding and the end are newc', async (t) => {
  const archive = cpio(entries)
  t.equal(archive.length % 4, 0)
  t.equal(archive.toString('latin1', 0, 6), '070701')
  t.equal(archive.toString('latin1', 110, 114), 'dev\0')
  t.equal(parseInt(archive.toString('latin1', 14, 22), 16), 0o040755, 'type and mode')
  t.match(archive.toString('latin1'), /TRAILER!!!\0/)
  t.ok(cpio(entries).equals(archive), 'equal content, equal bytes')
})
