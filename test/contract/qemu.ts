/** Runs the backends' contract on QEMU, inside a node: qemu.ts KERNEL INITRAMFS ROOTFS */
import t from 'tap'
import { backendContract } from '#host/backends/contract.ts'
import { bindBackends } from '#host/backends/index.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'

const MEMORY_MIB = 512

const [kernel, initramfs, rootfs] = process.argv.slice(2)
const os = createNativeOs()
const rpc = loadServices(loadProtos())
const bind = (table: Readonly<Record<string, unknown>>) => {
  const backend = bindBackends({ subject: { kind: 'qemu', kernel, initramfs, rootfs, ...table } }, 'test', { rpc, os }).get('subject')
  if (backend === undefined) throw new Error('not bound')
  return backend
}

t.setTimeout(1_200_000)
await backendContract(t, {
  backend: bind({}),
  broken: { backend: bind({ kernel: '/no/such/kernel' }), message: /\/no\/such\/kernel/ },
  rpc,
  mounts: os.mounts,
  processes: ['qemu', 'vhost-device-vsock', 'virtiofsd', 'virtiofsd-roots'],
  memoryMiB: MEMORY_MIB,
})
