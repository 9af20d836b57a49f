/**
 * A registry of the images in images.ts: `node registry.ts PORT`.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { serveImages } from '#test/images/serve.ts'
import { conformanceDir } from './critest.ts'
import { criImages } from './images.ts'

const busybox = '/usr/bin/busybox'

const { stdout } = await execa(busybox, ['--list'])
const applets = stdout.split('\n').filter((name) => name !== '')
const program = (name: string) => readFile(join(conformanceDir, 'programs', name))
const programs = { sh: await program('sh'), nonewprivs: await program('nonewprivs'), webserver: await program('webserver') }
serveImages(criImages(await readFile(busybox), applets, programs), Number(process.argv[2]))
