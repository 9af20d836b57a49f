/** The preparer with real mounts, in mount namespaces that end with the test. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { execa } from 'execa'
import t from 'tap'

await execa('make', ['os-addon'])
const skips: Readonly<Record<string, string | false>> = { mounts: false, volumes: false, hung: existsSync('/dev/fuse') ? false : 'lacks: /dev/fuse' }
for (const [subject, skip] of Object.entries(skips)) {
  const script = resolve(import.meta.dirname, `../support/container-${subject}.ts`)
  const env = { ...process.env, UV_THREADPOOL_SIZE: '8' }
  await t.spawn('unshare', ['--mount', '--propagation', 'private', process.execPath, script], { env, skip }, `container ${subject}`)
}
