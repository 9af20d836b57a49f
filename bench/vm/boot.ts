/**
 * Runs one VM from its start to its end, without a sandboxer, and prints what it took as JSON. Runs inside the node:
 *
 *   boot.ts COMMANDS.json      { directory, commands: VmCommands }
 *
 * `helloMs`: from the fork of QEMU, whose helpers listen already, to the guest's first bytes on vsock port 1025; absent
 * when it said nothing. `helloCpuMs`: QEMU's CPU time by then. `console`: everything the guest printed.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isListening } from '#host/backends/microvm/listening.ts'
import { vmPaths } from '#host/backends/microvm/paths.ts'
import type { Argv, VmCommands } from './commands.ts'
import { cpuTimeMs } from './cpu-time.ts'

/** From QEMU's start to its end. */
const RUN_MS_MAX = 120_000
const LISTEN_MS_MAX = 15_000
const LINK_PORT = 1025

const { directory, commands }: { directory: string; commands: VmCommands } = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'))
const paths = vmPaths(directory)
rmSync(directory, { recursive: true, force: true })
mkdirSync(join(directory, 'shared'), { recursive: true, mode: 0o700 })
const children: ChildProcess[] = []

let startMs = 0
let vmm: ChildProcess | undefined
let hello: { readonly helloMs: number; readonly helloCpuMs: number } | undefined
const link = createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', () => {
    hello = { helloMs: performance.now() - startMs, helloCpuMs: cpuTimeMs(vmm?.pid ?? 0) }
    socket.end()
  })
})
link.listen(`${paths.vsock}_${LINK_PORT}`)
await once(link, 'listening')

try {
  await Promise.all(commands.helpers.map(({ argv, socket }) => helper(argv, socket)))
  startMs = performance.now()
  vmm = start(commands.vmm)
  const timer = setTimeout(() => vmm?.kill('SIGKILL'), RUN_MS_MAX)
  await once(vmm, 'exit')
  clearTimeout(timer)
  const console = existsSync(paths.console) ? readFileSync(paths.console, 'utf8') : ''
  process.stdout.write(JSON.stringify({ hello, console }))
} finally {
  for (const child of children) child.kill('SIGKILL')
  link.close()
  rmSync(directory, { recursive: true, force: true })
}

function start([file = '', ...args]: Argv): ChildProcess {
  const child = spawn(file, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  children.push(child)
  return child
}

async function helper(argv: Argv, socket: string): Promise<void> {
  const child = start(argv)
  const deadline = performance.now() + LISTEN_MS_MAX
  while (!isListening(readFileSync('/proc/self/net/unix', 'latin1'), socket)) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`${argv.join(' ')} does not listen on ${socket}`)
    await sleep(1)
  }
}
