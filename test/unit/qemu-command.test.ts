/** QEMU's command line, word for word. */
import t from 'tap'
import type { VmPlan } from '#host/backends/microvm/driver.ts'
import { vmPaths } from '#host/backends/microvm/paths.ts'
import { qemuCommand } from '#host/backends/qemu/command.ts'
import { parseQemuConfig } from '#host/backends/qemu/config.ts'
import { QEMU_MACHINE, kernelCommandLine } from '../../image/boot.ts'

const config = parseQemuConfig({}, 'backends.kuasar-qemu')
const plan: VmPlan = { sandboxId: 'sb', vcpus: 2, memoryMiB: 512, accelerator: 'tcg', nics: [], logLevel: 'info', paths: vmPaths('/s') }

/** One option a line. */
const golden = `-name kuasar-sb,debug-threads=on
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine ${QEMU_MACHINE},memory-backend=memory
-accel tcg,thread=multi,tb-size=256
-cpu max,-erms,-fsrm
-smp 2
-m 512M
-object memory-backend-memfd,id=memory,size=512M,share=on
-kernel /usr/share/kuasar/vmlinux
-initrd /usr/share/kuasar/initramfs.cpio
-append ${kernelCommandLine({ logLevel: 'info' })}
-blockdev driver=file,node-name=root,filename=/usr/share/kuasar/rootfs.erofs,read-only=on,auto-read-only=off,locking=off
-device virtio-blk-pci,drive=root
-chardev socket,id=virtiofs,path=/s/virtiofs.sock
-device vhost-user-fs-pci,chardev=virtiofs,tag=kuasar
-chardev socket,id=roots,path=/s/roots.sock
-device vhost-user-fs-pci,chardev=roots,tag=kuasar-roots
-chardev socket,id=vsock,path=/s/vhost-vsock.sock
-device vhost-user-vsock-pci,chardev=vsock
-device virtio-rng-pci
-chardev file,id=console,path=/s/console.log,append=on
-serial chardev:console
-qmp unix:/s/qmp.sock,server=on,wait=off`

/** The value after an option, for options given once. */
const option = (args: readonly string[], name: string) => args[args.indexOf(name) + 1]

t.test('under emulation', (t) => {
  const { file, args } = qemuCommand(plan, config)
  t.equal(file, '/usr/bin/qemu-system-x86_64')
  t.equal(args.join('\n').replaceAll(/\n(?!-)/g, ' '), golden)
  t.end()
})

t.test('under KVM only what concerns the processor differs', (t) => {
  const emulated = qemuCommand(plan, config).args
  const { args } = qemuCommand({ ...plan, accelerator: 'kvm' }, config)
  t.equal(option(args, '-accel'), 'kvm')
  t.equal(option(args, '-cpu'), 'host')
  const changed = args.filter((word, index) => word !== emulated[index])
  t.strictSame(changed, ['kvm', 'host'])
  t.end()
})

t.test('each network card is a tap by name, between the other devices and the console', (t) => {
  const nics = [
    { tap: 'kuasar-tap0', mac: '02:00:00:00:00:01', queues: 1 },
    { tap: 'kuasar-tap1', mac: '02:00:00:00:00:02', queues: 4 },
  ]
  const cards = `-netdev tap,id=net0,ifname=kuasar-tap0,script=no,downscript=no,vhost=off
-device virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile=
-netdev tap,id=net1,ifname=kuasar-tap1,script=no,downscript=no,vhost=off,queues=4
-device virtio-net-pci,netdev=net1,mac=02:00:00:00:00:02,romfile=,mq=on,vectors=10
`
  const expected = golden.replace('-chardev file,id=console', `${cards}-chardev file,id=console`)
  t.equal(qemuCommand({ ...plan, nics }, config).args.join('\n').replaceAll(/\n(?!-)/g, ' '), expected)
  t.end()
})

t.test('settings reach the command line', (t) => {
  const { file, args } = qemuCommand(plan, { ...config, path: '/opt/qemu', cpu: 'Nehalem', kernel: '/k', rootfs: '/r', kernel_parameters: ' debug  x=1 ' })
  t.equal(file, '/opt/qemu')
  t.equal(option(args, '-cpu'), 'Nehalem')
  t.equal(option(args, '-kernel'), '/k')
  t.match(option(args, '-blockdev'), 'filename=/r,')
  t.match(option(args, '-append'), / debug x=1$/)
  t.end()
})

t.test('a directory too deep for its sockets is refused before anything starts', (t) => {
  t.throws(() => vmPaths(`/${'d'.repeat(100)}`), { code: 'INVALID_ARGUMENT', message: /118 bytes long; a unix socket takes 107: set sandboxer.state_dir/ })
  t.equal(vmPaths(`/run/kuasar/sandboxes/${'f'.repeat(64)}`).vsock.length, 92)
  t.end()
})
