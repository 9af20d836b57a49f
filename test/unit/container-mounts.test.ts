/** The preparer with real mounts, in mount namespaces that end with the test. */
import { resolve } from 'node:path'
import { execa } from 'execa'
import t from 'tap'

await execa('make', ['os-addon'])
for (const subject of ['mounts', 'volumes']) {
  const script = resolve(import.meta.dirname, `../support/container-${subject}.ts`)
  await t.spawn('unshare', ['--mount', '--propagation', 'private', process.execPath, script], {}, `container ${subject}`)
}
