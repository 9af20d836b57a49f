/** QEMU: real KVM where there is some, emulation anywhere else. */
import type { Os } from '#shared/os/contract.ts'
import type { SandboxBackend } from '#host/sandbox/backend.ts'
import { microvmBackend } from '../microvm/backend.ts'
import type { VmmDriver } from '../microvm/driver.ts'
import { qemuCommand } from './command.ts'
import { type QemuConfig, parseQemuConfig } from './config.ts'
import { connectQmp } from './control.ts'

const driver: VmmDriver<QemuConfig> = { name: 'qemu', command: qemuCommand, control: connectQmp }

export function qemuBackend(os: Pick<Os, 'processes'>): SandboxBackend<QemuConfig> {
  return microvmBackend({ kind: 'qemu', driver, parseConfig: parseQemuConfig, watch: (pid, onExit) => os.processes.watch(pid, onExit) })
}
