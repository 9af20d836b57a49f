/**
 * Images over HTTP, for a containerd that asks here in place of every registry: the part of the distribution specification (1.1) that a
 * pull needs, on the node's own loopback.
 */
import { createServer, type ServerResponse } from 'node:http'
import { ociStore, type Image } from './oci.ts'

/** Serves them by path and tag, since this answers for every registry's name, until the process ends. */
export function serveImages(images: readonly Image[], port: number): void {
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
    const content = blobs.get(digest.replace(/^sha256:/, ''))
    answer(response, request.method === 'HEAD', digest, content, kind === 'manifests' ? types.get(digest) : 'application/octet-stream')
  }).listen(port, '127.0.0.1')
}

function answer(response: ServerResponse, headOnly: boolean, digest: string, content: Buffer | undefined, type: string | undefined): void {
  if (content === undefined || type === undefined) {
    response.writeHead(404).end()
    return
  }
  response.writeHead(200, { 'content-type': type, 'content-length': content.length, 'docker-content-digest': digest })
  response.end(headOnly ? undefined : content)
}
