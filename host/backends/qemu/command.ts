/** QEMU's command line for one VM. README.md has the reasons and what each choice was measured to save. */
import { ROOTS_TAG, SHARE_TAG } from '#host/sandbox/backend.ts'
import { QEMU_EMULATED_CPU, QEMU_MACHINE, kernelCommandLine } from '../../../image/boot.ts'
import type { Nic } from '#host/sandbox/backend.ts'
import type { Command, VmPlan } from '../microvm/driver.ts'
import type { QemuConfig } from './config.ts'

/** Translated code of one emulated VM, in MiB; QEMU would take up to 1 GiB of the pod's memory, and starts anew when it is full. */
const TRANSLATED_MIB_MAX = 256

type Option = readonly [name: string, value?: string]

export function qemuCommand(plan: VmPlan, config: QemuConfig): Command {
  const options = [...base(plan), ...machine(plan, config), ...boot(plan, config), ...devices(plan, config), ...control(plan)]
  return { file: config.path, args: options.flatMap(([name, value]) => (value === undefined ? [name] : [name, value])) }
}

/** Nothing that was not asked for, and no more of the host than the work needs. */
function base({ sandboxId }: VmPlan): Option[] {
  return [
    ['-name', `kuasar-${sandboxId},debug-threads=on`],
    ['-nodefaults'],
    ['-no-user-config'],
    ['-no-reboot'],
    ['-display', 'none'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
  ]
}

function machine({ accelerator, vcpus, memoryMiB }: VmPlan, { cpu }: QemuConfig): Option[] {
  const kvm = accelerator === 'kvm'
  return [
    ['-machine', `${QEMU_MACHINE},memory-backend=memory`],
    ['-accel', kvm ? 'kvm' : `tcg,thread=multi,tb-size=${TRANSLATED_MIB_MAX}`],
    ['-cpu', cpu === 'auto' ? (kvm ? 'host' : QEMU_EMULATED_CPU) : cpu],
    ['-smp', `${vcpus}`],
    ['-m', `${memoryMiB}M`],
    // The vhost-user helpers reach the guest's memory through this descriptor.
    ['-object', `memory-backend-memfd,id=memory,size=${memoryMiB}M,share=on`],
  ]
}

function boot({ logLevel }: VmPlan, config: QemuConfig): Option[] {
  const extra = config.kernel_parameters.split(' ').filter((word) => word !== '')
  return [
    ['-kernel', config.kernel],
    ['-initrd', config.initramfs],
    ['-append', kernelCommandLine({ logLevel, extra })],
  ]
}

/** The order is the order of their PCI slots. */
function devices({ paths, nics }: VmPlan, { rootfs }: QemuConfig): Option[] {
  return [
    // One image serves every sandbox: nobody may lock or write it.
    ['-blockdev', `driver=file,node-name=root,filename=${rootfs},read-only=on,auto-read-only=off,locking=off`],
    ['-device', 'virtio-blk-pci,drive=root'],
    ['-chardev', `socket,id=virtiofs,path=${paths.virtiofs}`],
    ['-device', `vhost-user-fs-pci,chardev=virtiofs,tag=${SHARE_TAG}`],
    ['-chardev', `socket,id=roots,path=${paths.roots}`],
    ['-device', `vhost-user-fs-pci,chardev=roots,tag=${ROOTS_TAG}`],
    ['-chardev', `socket,id=vsock,path=${paths.vhostVsock}`],
    ['-device', 'vhost-user-vsock-pci,chardev=vsock'],
    ['-device', 'virtio-rng-pci'],
    ...nics.flatMap(networkCard),
    ['-chardev', `file,id=console,path=${paths.console},append=on`],
    ['-serial', 'chardev:console'],
  ]
}

/**
 * The tap is there and ours to attach to; QEMU, without a capability, could not make one. The MTU is the agent's to set:
 * `host_mtu` would be the most that the guest may ever set, and the pod's may grow.
 */
function networkCard({ tap, mac, queues }: Nic, index: number): Option[] {
  const several = queues > 1
  const netdev = `tap,id=net${index},ifname=${tap},script=no,downscript=no,vhost=off${several ? `,queues=${queues}` : ''}`
  // Two interrupts for each pair of queues, one for the configuration and one for the control queue.
  const queueing = several ? `,mq=on,vectors=${2 * queues + 2}` : ''
  // Without the option ROM, from which nobody boots.
  return [
    ['-netdev', netdev],
    ['-device', `virtio-net-pci,netdev=net${index},mac=${mac},romfile=${queueing}`],
  ]
}

function control({ paths }: VmPlan): Option[] {
  return [['-qmp', `unix:${paths.control},server=on,wait=off`]]
}
