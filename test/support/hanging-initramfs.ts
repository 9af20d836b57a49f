/** A guest that boots, says some lines on its console, and then nothing more: no agent ever says hello. */
import { readFile } from 'node:fs/promises'
import type { TestNode } from '#test/node/node.ts'
import { cpio } from '../../image/cpio.ts'

/** An initramfs whose init prints `line 1` to `line <lines>` and sleeps for ever. */
export async function hangingInitramfs(node: TestNode, lines: number): Promise<Buffer> {
  const init = [
    '#!/busybox sh',
    '/busybox mount -t devtmpfs dev /dev',
    'exec > /dev/console 2>&1',
    `for n in $(/busybox seq ${lines}); do echo "line $n"; done`,
    'while :; do /busybox sleep 1000; done',
  ]
  return cpio([
    { kind: 'directory', path: 'dev', mode: 0o755 },
    { kind: 'file', path: 'busybox', mode: 0o755, content: await readFile(node.path('/usr/bin/busybox')) },
    { kind: 'file', path: 'init', mode: 0o755, content: Buffer.from(`${init.join('\n')}\n`) },
  ])
}
