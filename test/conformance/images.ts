/**
 * The images critest names, each with what its specs look at and nothing more: all are Debian's static busybox with a
 * few files. Named by path and tag alone, since the registry answers for every registry's name.
 */
import { userland } from '#test/images/catalog.ts'
import { ociStore, type Image, type ImageConfig } from '#test/images/oci.ts'
import type { TarEntry } from '#test/images/tar.ts'

/** What most specs run; critest takes its name from --test-images-file. */
export const defaultImage = 'kuasar.test/critest:1'

/** Critest's web server by default (port 80), and named by it wherever it needs a process "nginx". */
const webServer = 'e2e-test-images/nginx:1.14-2'

const own = (name: string): string => `k8s-staging-cri-tools/${name}`

/** Pulled by digest and never run. The same bytes whatever busybox is, so that its digest is known without one. */
const digestImage: Image = {
  reference: own('test-image-digest:latest'),
  layers: [[{ kind: 'file', name: 'digest', content: 'digest\n' }]],
  config: { Cmd: ['/digest'] },
}

export function digestOfDigestImage(): string {
  const [manifest] = ociStore([digestImage]).manifests
  if (manifest === undefined) throw new Error('an image has a manifest')
  return manifest.digest
}

/** Of programs/, compiled. */
export interface Programs {
  readonly sh: Uint8Array
  readonly nonewprivs: Uint8Array
  readonly webserver: Uint8Array
}

/** Every image, from the bytes of busybox, the names of its applets, and our own programs. */
export function criImages(busybox: Uint8Array, applets: readonly string[], programs: Programs): Image[] {
  const base = userland(busybox, applets)
  const common: TarEntry[] = [...tools, { kind: 'file', name: 'bin/sh', mode: 0o755, content: programs.sh }]
  const image = (reference: string, layer: readonly TarEntry[], config: ImageConfig = {}): Image => ({
    reference,
    layers: [base, common, layer],
    config: { Env: ['PATH=/bin:/usr/sbin'], Cmd: ['sh'], ...config },
  })
  const marked = (name: string, config: ImageConfig = {}) => image(own(name), [marker(name)], config)
  return [
    image(defaultImage.replace(/^[^/]*\//, ''), []),
    image(webServer, server(programs.webserver, 'usr/sbin/nginx', 80), { Cmd: ['/usr/sbin/nginx', 'master process'] }),
    image('e2e-test-images/httpd:2.4.39-4', server(programs.webserver, 'usr/sbin/httpd', 80), { Cmd: ['/usr/sbin/httpd'] }),
    image(own('hostnet-nginx-amd64:latest'), server(programs.webserver, 'usr/sbin/nginx', 12_003), { Cmd: ['/usr/sbin/nginx', 'master process'] }),
    image('e2e-test-images/nonewprivs:1.3', [{ kind: 'file', name: 'nnp', mode: 0o4755, content: programs.nonewprivs }], { Cmd: ['/nnp'] }),
    image('pause:3.9', [marker('pause')], { Cmd: ['sleep', '1000'] }),
    ...['test-image-1:latest', 'test-image-2:latest', 'test-image-3:latest'].map((name) => marked(name)),
    ...['test-image-latest:latest', 'test-image-tag:test', 'test-image-tag:all'].map((name) => marked(name)),
    // One image with three tags.
    ...['1', '2', '3'].map((tag) => image(own(`test-image-tags:${tag}`), [marker('test-image-tags')])),
    marked('test-image-user-uid:latest', { User: '1002' }),
    marked('test-image-user-username:latest', { User: 'www-data' }),
    marked('test-image-user-uid-group:latest', { User: '1003:users' }),
    marked('test-image-user-username-group:latest', { User: 'www-data:www-data' }),
    image(own('test-image-predefined-group:latest'), predefinedGroup, { User: '1000' }),
    digestImage,
  ]
}

/** Makes an image differ from all others. */
function marker(content: string): TarEntry {
  return { kind: 'file', name: 'image', content: `${content}\n` }
}

const users = 'root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/srv:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n'
const groups = 'root:x:0:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n'

/** Users, two commands that specs run and this busybox does not have, and a file for a spec that masks it alone. */
const tools: readonly TarEntry[] = [
  { kind: 'file', name: 'etc/passwd', content: users },
  { kind: 'file', name: 'etc/group', content: groups },
  { kind: 'directory', name: 'var/run' },
  { kind: 'file', name: 'bin/pgrep', mode: 0o755, content: '#!/bin/sh\nexec pidof "$1"\n' },
  { kind: 'file', name: 'bin/ipcs', mode: 0o755, content: '#!/bin/sh\nexec cat /proc/sysvipc/shm\n' },
  { kind: 'file', name: 'bin/ls', mode: 0o755, content: '#!/bin/sh\nexec busybox ls "$@"\n' },
]

/** User 1000 is of a group that only the image knows. */
const predefinedGroup: readonly TarEntry[] = [
  { kind: 'file', name: 'etc/passwd', content: `${users}default-user:x:1000:1000::/:/bin/sh\n` },
  { kind: 'file', name: 'etc/group', content: `${groups}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n` },
]

/** A web server under `program`'s name. */
function server(webserver: Uint8Array, program: string, port: number): TarEntry[] {
  const name = program.slice(program.lastIndexOf('/') + 1)
  return [
    { kind: 'directory', name: 'usr' },
    { kind: 'directory', name: 'usr/sbin' },
    { kind: 'directory', name: 'srv/www' },
    { kind: 'file', name: 'srv/www/index.html', content: `<h1>${name}</h1>\n` },
    { kind: 'file', name: 'srv/port', content: `${port}\n` },
    { kind: 'file', name: program, mode: 0o755, content: webserver },
  ]
}
