/**
 * The images that the suite names, from Debian's static busybox and agnhost, the suite's own program. By path and tag alone, since the
 * registry answers for every registry's name.
 */
import { userland } from '#test/images/catalog.ts'
import type { Image, ImageConfig } from '#test/images/oci.ts'
import type { TarEntry } from '#test/images/tar.ts'

export interface Programs {
  readonly agnhost: Uint8Array
  /** agnhost's own certificate and key, for its server of HTTPS */
  readonly certificate: Uint8Array
  readonly key: Uint8Array
  /** test/conformance/programs/nonewprivs.c */
  readonly nonewprivs: Uint8Array
}

/** Source: kubernetes v1.36.3, test/utils/image/manifest.go; what is in each: test/images. */
export function suiteImages(busybox: Uint8Array, applets: readonly string[], programs: Programs): Image[] {
  const base = [...userland(busybox, applets), ...users]
  const agnhost: TarEntry[] = [
    { kind: 'file', name: 'agnhost', mode: 0o755, content: programs.agnhost },
    { kind: 'symlink', name: 'agnhost-2', target: 'agnhost' },
    { kind: 'file', name: 'localhost.crt', content: programs.certificate },
    { kind: 'file', name: 'localhost.key', content: programs.key },
    { kind: 'directory', name: 'uploads' },
    { kind: 'file', name: 'bin/curl', mode: 0o755, content: curl },
  ]
  const image = (name: string, layers: readonly TarEntry[][], config: ImageConfig = {}): Image => ({
    reference: name,
    // An image has an id of its own.
    layers: [base, ...layers, [{ kind: 'file', name: 'image', content: `${name}\n` }]],
    config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], Cmd: ['sh'], ...config },
  })
  const own = (name: string, ...rest: [readonly TarEntry[][], ImageConfig?]) => image(`e2e-test-images/${name}`, ...rest)
  const nnp: TarEntry[] = [
    { kind: 'directory', name: 'usr' },
    { kind: 'directory', name: 'usr/local' },
    { kind: 'directory', name: 'usr/local/bin' },
    { kind: 'file', name: 'usr/local/bin/nnp', mode: 0o6755, content: programs.nonewprivs },
  ]
  return [
    ...['busybox:1.37.0-1', 'glibc-dns-testing:2.0.0'].map((name) => own(name, [])),
    ...['2.55', '2.63.0'].map((tag) => own(`agnhost:${tag}`, [agnhost], { Entrypoint: ['/agnhost'], Cmd: ['pause'] })),
    image('pause:3.10.2', [agnhost], { Entrypoint: ['/agnhost', 'pause'], Cmd: [] }),
    ...['1.15-4', '1.27-0'].map((tag) => own(`nginx:${tag}`, [agnhost], { Cmd: ['/agnhost', 'test-webserver'] })),
    own('nonewprivs:1.4', [nnp], { Cmd: ['nnp'] }),
    own('nonroot:1.5', [], { User: '1234' }),
  ]
}

/** What the suite asks of it: the answer to a URL, the last word. */
const curl = '#!/bin/sh\nfor url; do :; done\nexec wget -q -O - "$url"\n'

const users: readonly TarEntry[] = [
  {
    kind: 'file',
    name: 'etc/passwd',
    content: 'root:x:0:0::/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n',
  },
  {
    kind: 'file',
    name: 'etc/group',
    content: 'root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n',
  },
]
