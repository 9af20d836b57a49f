/** Bad keys are named with their value and what was expected. */
import t from 'tap'
import { parseQemuConfig } from '#host/backends/qemu/config.ts'

const at = 'config.toml: backends.kuasar-qemu'

t.test('an empty table works', (t) => {
  t.match(parseQemuConfig({}, at), { path: '/usr/bin/qemu-system-x86_64', accel: 'auto', cpu: 'auto', virtiofsd: '/usr/libexec/virtiofsd' })
  t.end()
})

for (const [about, table, message] of [
  ['an unknown accelerator', { accel: 'hvf' }, /kuasar-qemu\.accel: "hvf" is not accepted: expected one of "auto", "kvm", "tcg"/],
  ['a key with a typo', { kernal: '/k' }, /kuasar-qemu: unknown key kernal = "\/k"; did you mean kernel\?/],
  ['a relative path', { kernel: 'vmlinuz' }, /kuasar-qemu\.kernel: "vmlinuz" is not accepted: expected an absolute path without ","/],
  ['a path that would end its option', { rootfs: '/r,read-only=off' }, /kuasar-qemu\.rootfs: .* expected an absolute path without ","/],
  ['a CPU model that is more than one', { cpu: 'max -device x' }, /kuasar-qemu\.cpu: .* expected a CPU model/],
  ['kernel parameters with a line break', { kernel_parameters: 'a\nb' }, /kuasar-qemu\.kernel_parameters: .* expected printable ASCII/],
  ['a number for a path', { virtiofsd: 1 }, /kuasar-qemu\.virtiofsd: 1 is not accepted: expected a string/],
] as const)
  t.test(about, (t) => {
    t.throws(() => parseQemuConfig(table, at), { code: 'INVALID_ARGUMENT', message })
    t.end()
  })
