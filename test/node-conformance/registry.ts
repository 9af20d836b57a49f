/** A registry of the images in images.ts: `node registry.ts PORT`. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { conformanceDir } from '#test/conformance/critest.ts'
import { serveImages } from '#test/images/serve.ts'
import { programsDir } from './suite.ts'
import { suiteImages } from './images.ts'

const busybox = '/usr/bin/busybox'

const { stdout } = await execa(busybox, ['--list'])
const applets = stdout.split('\n').filter((name) => name !== '')
const programs = {
  agnhost: await readFile(join(programsDir, 'agnhost')),
  certificate: await readFile(join(programsDir, 'localhost.crt')),
  key: await readFile(join(programsDir, 'localhost.key')),
  nonewprivs: await readFile(join(conformanceDir, 'programs/nonewprivs')),
}
serveImages(suiteImages(await readFile(busybox), applets, programs), Number(process.argv[2]))
