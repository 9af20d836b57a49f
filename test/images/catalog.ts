/** The images tests and the demo run, all made from Debian's static busybox. */

import { basename } from 'node:path'
import type { Image } from './oci.ts'
import type { TarEntry } from './tar.ts'

/** The references, for use in container configurations. */
export const images = {
  /** A small userland; its default command is a shell. */
  busybox: 'kuasar.test/busybox:1',
  /** Does nothing for ever, under a name no test looks for: what containerd runs as a runc pod's sandbox container. */
  pause: 'kuasar.test/pause:1',
  /** 51 layers: overlay's options outgrow one page when lower directories have long names. */
  layers: 'kuasar.test/layers:50',
  /** Sets every field a container inherits from its image: USER, ENV, ENTRYPOINT, CMD, WORKDIR, STOPSIGNAL. */
  config: 'kuasar.test/config:1',
  /** Declares the volume /data. */
  volume: 'kuasar.test/volume:1',
} as const

const layerCount = 50

/** Every image of the catalogue, from the bytes of busybox and the names of its applets. */
export function catalogue(busybox: Uint8Array, applets: readonly string[]): Image[] {
  const base = userland(busybox, applets)
  const shell = { Env: ['PATH=/bin'], Cmd: ['sh'] }
  return [
    { reference: images.busybox, layers: [base], config: shell },
    { reference: images.pause, layers: [base], config: { ...shell, Cmd: ['tail', '-f', '/dev/null'] } },
    { reference: images.layers, layers: [base, ...manyLayers()], config: shell },
    {
      reference: images.config,
      layers: [base],
      config: {
        User: 'app',
        Env: ['PATH=/bin', 'GREETING=hello from the image'],
        Entrypoint: ['sh', '-c'],
        Cmd: ['id; pwd; echo "$GREETING"'],
        WorkingDir: '/srv/app',
        StopSignal: 'SIGUSR1',
      },
    },
    { reference: images.volume, layers: [base], config: { ...shell, Volumes: { '/data': {} } } },
  ]
}

/** Busybox with its links, the directories a container expects, and two users. */
export function userland(busybox: Uint8Array, applets: readonly string[]): TarEntry[] {
  const directories = ['bin', 'dev', 'etc', 'home', 'proc', 'root', 'srv', 'srv/app', 'sys', 'var', 'data']
  return [
    ...directories.map((name) => ({ kind: 'directory', name }) as const),
    { kind: 'directory', name: 'tmp', mode: 0o1777 },
    { kind: 'directory', name: 'home/app', uid: 1000, gid: 1000 },
    { kind: 'file', name: 'etc/passwd', content: 'root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n' },
    { kind: 'file', name: 'etc/group', content: 'root:x:0:\napp:x:1000:\nextra:x:2000:app\n' },
    { kind: 'file', name: 'bin/busybox', mode: 0o755, content: busybox },
    ...applets
      .filter((applet) => applet !== 'busybox')
      .map((applet) => ({ kind: 'symlink', name: `bin/${basename(applet)}`, target: 'busybox' }) as const),
  ]
}

/** Each layer adds a file, replaces `layers/top` and hides (whites out) the file two layers below. */
function manyLayers(): TarEntry[][] {
  return Array.from({ length: layerCount }, (_, index) => {
    const entries: TarEntry[] = [
      { kind: 'directory', name: 'layers' },
      { kind: 'file', name: `layers/${index}`, content: `${index}\n` },
      { kind: 'file', name: 'layers/top', content: `${index}\n` },
    ]
    return index < 2 ? entries : [...entries, { kind: 'file', name: `layers/.wh.${index - 2}`, content: '' }]
  })
}
