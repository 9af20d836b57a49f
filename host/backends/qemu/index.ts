/** QEMU: real KVM where there is some, emulation anywhere else. */
import { type BindBackend, bindBackend } from '#host/sandbox/backends.ts'
import { microvmBackend } from '../microvm/backend.ts'
import type { VmmDriver } from '../microvm/driver.ts'
import { qemuCommand } from './command.ts'
import { type QemuConfig, parseQemuConfig } from './config.ts'
import { connectQmp } from './control.ts'

const driver: VmmDriver<QemuConfig> = { name: 'qemu', command: qemuCommand, control: connectQmp }

export const qemu: BindBackend = ({ os }, table, at) =>
  bindBackend(microvmBackend({ kind: 'qemu', driver, parseConfig: parseQemuConfig, watch: (pid, onExit) => os.processes.watch(pid, onExit) }), table, at)
