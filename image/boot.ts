/**
 * How the image is booted: the kernel's command line and the devices it expects. Pure; README.md has the reasons and
 * what each word was measured to save.
 */

export interface KernelOptions {
  /** Device below /dev for init's and the agent's output, when it is not the kernel's console. */
  readonly console?: string
  /** The agent's log level; "debug" makes init print its marks. */
  readonly logLevel?: string
  /** More words, at the end: the last of two equal parameters wins. */
  readonly extra?: readonly string[]
}

/** Words every VMM passes. */
const always = [
  // The one console that works before any module is loaded.
  'console=ttyS0',
  // Printing costs an emulated UART's port writes; errors are still printed.
  'quiet',
  // A panic resets at once, and a VMM told not to reboot ends there.
  'panic=-1',
  // Self-tests of the kernel's crypto: a fifth of its start under emulation.
  'cryptomgr.notests',
  // The timer's wiring is not in doubt, and a loaded host makes the check lie. The TSC is: such a host may let the kernel
  // measure it 30 times too slow, and only the clocksource watchdog then keeps the guest's time (never tsc=reliable).
  'no_timer_check',
] as const

export function kernelCommandLine({ console, logLevel, extra = [] }: KernelOptions = {}): string {
  const words: string[] = [...always]
  if (console !== undefined) words.push(`kuasar.console=${console}`)
  if (logLevel !== undefined) words.push(`kuasar.log=${logLevel}`)
  return [...words, ...extra].join(' ')
}

/** q35 without what no guest of ours has a driver or a use for: each device costs firmware and ACPI time. */
export const QEMU_MACHINE = 'q35,smm=off,hpet=off,i8042=off,vmport=off,sata=off,usb=off,smbus=off'

/**
 * The CPU under emulation: all that can be emulated but "fast" string instructions (ERMS, FSRM), which QEMU runs byte by
 * byte. Without the flags the kernel and libc clear and copy pages in larger units.
 */
export const QEMU_EMULATED_CPU = 'max,-erms,-fsrm'

export interface QemuBoot {
  readonly kernel: string
  readonly initramfs: string
  readonly rootfs: string
  readonly commandLine: string
  readonly memoryMiB: number
  readonly vcpus: number
  /** The socket of a vhost-user vsock device, when the guest has one. */
  readonly vsockBackend?: string
}

/** The arguments of an emulated QEMU that boots the image with its console on standard output. */
export function qemuArguments(boot: QemuBoot): string[] {
  const { kernel, initramfs, rootfs, commandLine, vsockBackend } = boot
  const memory = `${boot.memoryMiB}M`
  const options: [name: string, value?: string][] = [
    ['-nodefaults'],
    ['-no-user-config'],
    ['-no-reboot'],
    ['-display', 'none'],
    ['-machine', `${QEMU_MACHINE},memory-backend=memory`],
    ['-accel', 'tcg,thread=multi'],
    ['-cpu', QEMU_EMULATED_CPU],
    ['-smp', `${boot.vcpus}`],
    ['-m', memory],
    // A vhost-user backend maps the guest's memory.
    ['-object', `memory-backend-memfd,id=memory,size=${memory},share=on`],
    ['-kernel', kernel],
    ['-initrd', initramfs],
    ['-append', commandLine],
    ['-blockdev', `driver=file,node-name=root,filename=${rootfs},read-only=on,auto-read-only=off,locking=off`],
    ['-device', 'virtio-blk-pci,drive=root'],
    ['-serial', 'stdio'],
  ]
  if (vsockBackend !== undefined) {
    options.push(['-chardev', `socket,id=vsock,path=${vsockBackend}`], ['-device', 'vhost-user-vsock-pci,chardev=vsock'])
  }
  return options.flatMap(([name, value]) => (value === undefined ? [name] : [name, value]))
}
