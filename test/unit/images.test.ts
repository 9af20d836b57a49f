import { createHash } from 'node:crypto'
import { mkdtemp, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t, { type Test } from 'tap'
import { catalogue, images } from '#test/images/catalog.ts'
import { ociArchive } from '#test/images/oci.ts'
import { tar } from '#test/images/tar.ts'

/** Unpacks with the system's tar, the judge of ours. */
async function unpack(t: Test, archive: Buffer): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'images-test-'))
  t.teardown(() => rm(directory, { recursive: true }))
  await writeFile(join(directory, 'archive.tar'), archive)
  await execa('tar', ['-xpf', 'archive.tar'], { cwd: directory })
  return directory
}

t.test('tar reads what we write', async (t) => {
  const content = Buffer.alloc(1000, 'x')
  const directory = await unpack(
    t,
    tar([
      { kind: 'directory', name: 'd', mode: 0o1777 },
      { kind: 'file', name: 'd/file', content, mode: 0o750 },
      { kind: 'file', name: 'd/block', content: Buffer.alloc(512) },
      { kind: 'file', name: 'empty', content: '' },
      { kind: 'symlink', name: 'd/link', target: 'file' },
    ]),
  )
  t.ok((await readFile(join(directory, 'd/file'))).equals(content))
  t.equal((await stat(join(directory, 'd/file'))).mode & 0o7777, 0o750)
  t.equal((await stat(join(directory, 'd'))).mode & 0o7777, 0o1777)
  t.equal((await stat(join(directory, 'd/block'))).size, 512)
  t.equal((await stat(join(directory, 'empty'))).size, 0)
  t.equal(await readlink(join(directory, 'd/link')), 'file')
  t.throws(() => tar([{ kind: 'directory', name: 'x'.repeat(100) }]), /longer than 100 bytes/)
})

t.test('every blob of an OCI archive is what its digest says, and is there', async (t) => {
  const made = catalogue(Buffer.from('a program'), ['busybox', 'sh', 'ls'])
  const archive = ociArchive(made)
  t.ok(archive.equals(ociArchive(catalogue(Buffer.from('a program'), ['busybox', 'sh', 'ls']))), 'the same bytes again')
  t.strictSame(made.map(({ reference }) => reference).sort(), Object.values(images).sort())

  const directory = await unpack(t, archive)
  const read = async ({ digest, size }: Descriptor) => {
    const bytes = await readFile(join(directory, 'blobs/sha256', digest.replace('sha256:', '')))
    t.equal(`sha256:${createHash('sha256').update(bytes).digest('hex')}`, digest)
    t.equal(bytes.length, size)
    return bytes
  }
  const index: Index = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8'))
  t.equal(index.manifests.length, made.length)
  for (const entry of index.manifests) {
    const manifest: Manifest = JSON.parse((await read(entry)).toString())
    const config: Config = JSON.parse((await read(manifest.config)).toString())
    t.strictSame(config.rootfs.diff_ids, manifest.layers.map(({ digest }) => digest))
    for (const layer of manifest.layers) await read(layer)
  }
})

interface Descriptor {
  readonly digest: string
  readonly size: number
}
interface Index {
  readonly manifests: readonly Descriptor[]
}
interface Manifest {
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}
interface Config {
  readonly rootfs: { readonly diff_ids: readonly string[] }
}
