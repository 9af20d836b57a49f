/**
 * A registry of the images in images.ts, for a containerd that asks it in place of every other: the part of the
 * distribution specification (1.1) that a pull needs, on the node's own loopback.
 *
 *   node registry.ts PORT
 */
import { readFile } from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { execa } from 'execa'
import { ociStore } from '#test/images/oci.ts'
import { conformanceDir } from './critest.ts'
import { criImages } from './images.ts'

const busybox = '/usr/bin/busybox'

const { stdout } = await execa(busybox, ['--list'])
const applets = stdout.split('\n').filter((name) => name !== '')
const program = (name: string) => readFile(join(conformanceDir, 'programs', name))
const programs = { sh: await program('sh'), nonewprivs: await program('nonewprivs'), webserver: await program('webserver') }
const images = criImages(await readFile(busybox), applets, programs)
const { blobs, manifests } = ociStore(images)
const tags = new Map(manifests.map(({ digest }, index) => [images[index]?.reference ?? '', digest]))
const types = new Map(manifests.map(({ digest, mediaType }) => [digest, mediaType]))

createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://registry')
  const [, name, kind, reference = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? []
  console.log(request.method, request.url)
  if (url.pathname === '/v2/') {
    response.end()
    return
  }
  const digest = kind === 'manifests' ? (tags.get(`${name}:${reference}`) ?? reference) : reference
  answer(response, request.method === 'HEAD', digest, kind === 'manifests' ? types.get(digest) : 'application/octet-stream')
}).listen(Number(process.argv[2]), '127.0.0.1')

function answer(response: ServerResponse, headOnly: boolean, digest: string, type: string | undefined): void {
  const content = blobs.get(digest.replace(/^sha256:/, ''))
  if (content === undefined || type === undefined) {
    response.writeHead(404).end()
    return
  }
  response.writeHead(200, { 'content-type': type, 'content-length': content.length, 'docker-content-digest': digest })
  response.end(headOnly ? undefined : content)
}
