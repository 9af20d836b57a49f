/** The backends' contract on QEMU. It runs inside a node, where QEMU and its helpers are. */
import t from 'tap'
import { startNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'

t.test('QEMU', async (t) => {
  await using node = await startNode()
  const { kernel, initramfs, rootfs } = sandboxerConfig.backends['kuasar-qemu']
  const { stdout, stderr, exitCode } = await node.exec('node', [`${inside.checkout}/test/contract/qemu.ts`, kernel, initramfs, rootfs], { cwd: '/scratch' })
  for (const line of stdout.split('\n').filter((text) => /^\s*(not )?ok /.test(text))) t.comment(line.trim())
  t.equal(exitCode, 0, exitCode === 0 ? 'every promise is kept' : `${stdout}\n${stderr}`)
})
