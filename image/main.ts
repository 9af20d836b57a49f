/** `make image`: builds the image and prints what takes the space. */
import { stat } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { agentEntry } from './agent.ts'
import { buildImage } from './build.ts'
import { imagePaths } from './paths.ts'
import { table } from './report.ts'
import { IMAGE_COMPRESSION, compressions } from './rootfs.ts'

const usage = `image/main.ts [--out DIR] [--entry AGENT.ts] [--compression ${compressions.join('|')}]`

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: imagePaths().out },
    entry: { type: 'string', default: agentEntry },
    compression: { type: 'string', default: IMAGE_COMPRESSION },
  },
})
const compression = compressions.find((name) => name === values.compression)
if (compression === undefined) throw new Error(`--compression ${values.compression}: ${usage}`)

const { paths, shares } = await buildImage({ out: resolve(values.out), entry: resolve(values.entry), compression })
const files = [paths.kernel, paths.vmlinux, paths.initramfs, paths.rootfs]
console.log(`\n${paths.out}`)
console.log(table(await Promise.all(files.map(async (path) => ({ name: basename(path), bytes: (await stat(path)).size })))))
console.log(`\non the root disk${compression === 'none' ? '' : `, before ${compression}`}`)
console.log(table(shares))
