/**
 * The root file system every node starts from: a minimal Debian with stock containerd and what a microVM pod needs
 * of its host. Built once by mmdebstrap; the directory's name is the hash of the recipe below, so an edit builds a
 * new one. It is never written to: a node lays an overlay over it.
 */

import { createHash } from 'node:crypto'
import { mkdir, rename, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildDebian, packageVersions } from './debian.ts'
import { buildDir } from './paths.ts'

/** Anything that changes the root's content belongs in here. */
export const recipe = {
  suite: 'forky',
  packages: [
    'busybox-static',
    'containerd',
    'containernetworking-plugins',
    'crun',
    'erofs-utils',
    'iproute2',
    'libstdc++6',
    'mount',
    'nftables',
    'qemu-system-x86',
    'runc',
    'tini',
    'util-linux',
    'vhost-device-vsock',
    'virtiofsd',
  ],
  options: [
    '--variant=minbase',
    '--mode=root',
    '--format=directory',
    // A frozen or lagging mirror serves Release files past their Valid-Until date.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Apt::Install-Recommends "false"',
    '--dpkgopt=path-exclude=/usr/share/man/*',
    '--dpkgopt=path-exclude=/usr/share/doc/*',
    '--dpkgopt=path-exclude=/usr/share/locale/*',
  ],
  /** Commands that busybox serves because nothing else in the root does. */
  applets: ['less', 'nc', 'ps', 'top', 'vi', 'watch', 'wget'],
  /** Mount points and files a running node expects. */
  directories: ['kuasar', 'scratch', 'etc/cni/net.d', 'etc/containerd'],
  files: {
    'etc/hosts': '127.0.0.1 localhost\n::1 localhost\n',
    'etc/resolv.conf': 'nameserver 127.0.0.1\n',
    'etc/hostname': 'kuasar-node\n',
  },
} as const

const hash = createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 12)

/** The root this recipe makes; it gets this name only once it is complete. */
export const rootDir = join(buildDir, `root-${hash}`)

/** Builds the root. The caller holds the build lock. Needs root, apt and a Debian mirror. */
export async function buildRoot(say: (line: string) => void): Promise<void> {
  const building = `${rootDir}.building`
  say(`node: building a Debian ${recipe.suite} root with containerd, qemu and virtiofsd`)
  await buildDebian(recipe, building, say)
  for (const directory of recipe.directories) await mkdir(join(building, directory), { recursive: true })
  for (const [path, content] of Object.entries(recipe.files)) await writeFile(join(building, path), content)
  for (const applet of recipe.applets) await symlink('busybox', join(building, 'usr/bin', applet))
  await writeFile(`${rootDir}.packages`, await packageVersions(building))
  await rename(building, rootDir)
}
