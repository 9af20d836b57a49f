/** A start-up snapshot of this Node without its code cache: smaller, still itself, and nothing else is taken for one. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import t from 'tap'
import { stripCodeCache } from '../../image/snapshot-blob.ts'

const directory = await mkdtemp(join(tmpdir(), 'kuasar-snapshot-'))
t.teardown(() => rm(directory, { recursive: true }))
const builder = join(directory, 'builder.cjs')
const config = join(directory, 'config.json')
const blob = join(directory, 'snapshot.blob')
await writeFile(builder, 'const { startupSnapshot } = require("node:v8"); startupSnapshot.setDeserializeMainFunction(() => console.log("from the snapshot"))')
await writeFile(config, JSON.stringify({ builder, withoutCodeCache: false }))
await execa(process.execPath, ['--snapshot-blob', blob, '--build-snapshot-config', config])
const whole = await readFile(blob)

t.test('the stripped snapshot starts', async (t) => {
  const stripped = stripCodeCache(whole)
  t.ok(stripped.length < whole.length / 2, `${stripped.length} of ${whole.length} bytes are left`)
  await writeFile(blob, stripped)
  t.equal((await execa(process.execPath, ['--snapshot-blob', blob])).stdout, 'from the snapshot')
})

t.test('what has no code cache is refused', async (t) => {
  t.throws(() => stripCodeCache(stripCodeCache(whole)), { message: /no code cache where Node 24 puts it/ })
  t.throws(() => stripCodeCache(whole.subarray(0, -1)), { message: /no code cache/ })
  t.throws(() => stripCodeCache(whole.subarray(0, 70)), { message: /no code cache/ })
  t.throws(() => stripCodeCache(Buffer.alloc(1000)), { message: /no start-up snapshot of Node 24/ })
  t.throws(() => stripCodeCache(Buffer.alloc(3)), { message: /no start-up snapshot/ })
})
