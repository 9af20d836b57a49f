/** The backends' contract on QEMU. It runs inside a node, where QEMU and its helpers are. */
import t from 'tap'
import { enterCommand } from '#test/node/enter.ts'
import { startNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'

t.test('QEMU', async (t) => {
  await using node = await startNode()
  const { kernel, initramfs, rootfs } = sandboxerConfig.backends['kuasar-qemu']
  const program = [`${inside.checkout}/test/contract/qemu.ts`, kernel, initramfs, rootfs]
  const { file, args } = enterCommand(node, 'node', program, { cwd: '/scratch' })
  // Its TAP is part of ours: each of its assertions counts, and so does what it leaves out.
  await t.spawn(file, args, 'every promise is kept')
})
