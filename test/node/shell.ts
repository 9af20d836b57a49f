/** `make node-shell`: a shell in a node of its own with everything running. The node ends with the shell. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startContainerd } from './containerd.ts'
import { enterCommand } from './enter.ts'
import { startNode } from './node.ts'
import { checkout, inside } from './paths.ts'
import { startSandboxer } from './sandboxer.ts'

await using node = await startNode()
const cri = `#!/bin/sh\nexec node ${inside.checkout}/test/cri/cli.ts "$@"\n`
await writeFile(node.path('/usr/local/bin/cri'), cri, { mode: 0o755 })
await symlink(`${inside.checkout}/host/ctl/kuasarctl`, node.path('/usr/local/bin/kuasarctl'))

// The sandboxer first, as on a real node: containerd asks it for its sandboxes while it starts.
await using services = new AsyncDisposableStack()
const hasSandboxer = existsSync(join(checkout, 'host/main.ts'))
if (hasSandboxer) services.use(await startSandboxer(node))
services.use(await startContainerd(node))

console.log(`A node with containerd${hasSandboxer ? ' and the sandboxer' : ''}. Logs are in /scratch/logs.

  cri run -r runc uname -a          a container of containerd's own
  cri run -r kuasar-qemu uname -a   the same in a microVM
  cri ps; cri logs ID; cri exec -t ID sh; cri rm --all
  kuasarctl list; kuasarctl trace ID

The node ends with this shell.`)

// script(1) gives the shell a terminal of the node's own: the outer one has no name and no job control in there.
const words = process.argv.slice(2)
const shell = words.length === 0 ? 'bash' : words.join(' ')
const env = { TERM: process.env['TERM'] ?? 'xterm', PS1: '\\u@node:\\w# ' }
const { file, args } = process.stdin.isTTY
  ? enterCommand(node, 'script', ['--quiet', '--return', '--command', shell, '/dev/null'], { env })
  : enterCommand(node, 'sh', ['-c', shell], { env })
// Ctrl-C belongs to the shell.
process.on('SIGINT', () => {})
const [code] = await once(spawn(file, args, { stdio: 'inherit' }), 'exit')
process.exitCode = typeof code === 'number' ? code : 1
