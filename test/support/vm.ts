/** Boots an image in a node, without a sandboxer, with vsock and the console at hand. */
import { kernelCommandLine, qemuArguments, type KernelOptions } from '../../image/boot.ts'
import type { ImagePaths } from '../../image/paths.ts'
import type { TestNode } from '#test/node/node.ts'
import { checkout, inside } from '#test/node/paths.ts'

export interface VmOptions extends KernelOptions {
  /** Below the checkout. */
  readonly image: Pick<ImagePaths, 'initramfs' | 'rootfs'> & { readonly kernel: string }
  /** Unique within the node, and short: the socket's path has it. */
  readonly name: string
  readonly vcpus?: number
}

export interface Vm {
  /** The hybrid vsock socket, seen from outside the node; the guest's dials go to `<vsock>_<port>`. */
  readonly vsock: string
  /** Resolves with all the console said when the VM has ended. */
  readonly console: Promise<string>
}

const MEMORY_MIB = 512

/** One CID for all: each VM has a vsock backend of its own, so they cannot meet. */
const GUEST_CID = 3

/** A VM that runs is ended after this long. */
const RUN_SECONDS_MAX = 400

export async function startVm(node: TestNode, options: VmOptions): Promise<Vm> {
  const directory = `${inside.scratch}/${options.name}`
  await node.run('mkdir', ['-p', directory])
  const backend = `${directory}/backend`
  const qemu = qemuArguments({
    kernel: within(options.image.kernel),
    initramfs: within(options.image.initramfs),
    rootfs: within(options.image.rootfs),
    commandLine: kernelCommandLine(options),
    memoryMiB: MEMORY_MIB,
    vcpus: options.vcpus ?? 1,
    vsockBackend: backend,
  })
  const vsock = ['--guest-cid', `${GUEST_CID}`, '--socket', backend, '--uds-path', `${directory}/vsock`]
  // The backend outlives a QEMU that died, so a shell ends it with the VM.
  const script = [
    `vhost-device-vsock ${vsock.join(' ')} >"$0/backend.log" 2>&1 & backend=$!`,
    `while ! [ -S ${backend} ]; do sleep 0.01; done`,
    `timeout -s KILL ${RUN_SECONDS_MAX} qemu-system-x86_64 "$@" </dev/null; kill $backend; wait`,
  ].join('\n')
  const run = node.exec('sh', ['-c', script, directory, ...qemu])
  return { vsock: node.path(`${directory}/vsock`), console: run.then(({ stdout, stderr }) => stdout + stderr) }
}

/** The path inside the node of a file of the checkout. */
function within(path: string): string {
  return path.replace(checkout, inside.checkout)
}
