/**
 * The command lines of a running pod's VMM and helpers, read from the processes themselves, and the same with another
 * directory, initramfs or disk. So a guest for comparison runs under the same QEMU with the same devices by construction.
 */
import { readFile, readdir } from 'node:fs/promises'

/** Program and arguments. */
export type Argv = readonly string[]

export interface VmCommands {
  readonly vmm: Argv
  readonly helpers: readonly Helper[]
}

export interface Helper {
  readonly argv: Argv
  /** The vhost-user socket it serves */
  readonly socket: string
}

/** `directory`: the sandbox's own, as its processes were told. */
export async function commandsOf(directory: string): Promise<VmCommands> {
  const found = await processesOf(directory)
  const helpers = found.flatMap(({ argv }) => {
    const socket = argv.flatMap((argument) => /^--socket(?:-path)?=(.+)$/.exec(argument)?.[1] ?? [])[0]
    return socket === undefined ? [] : [{ argv, socket }]
  })
  // A virtiofsd has a second half with the same arguments.
  const first = helpers.filter(({ socket }, index) => helpers.findIndex((other) => other.socket === socket) === index)
  return { vmm: vmm(found, directory).argv, helpers: first }
}

/** The VMM's pid, as this machine sees it. */
export async function vmmOf(directory: string): Promise<number> {
  return vmm(await processesOf(directory), directory).pid
}

const VMM = 'qemu-system-x86_64'

interface Found {
  readonly pid: number
  readonly argv: Argv
}

async function processesOf(directory: string): Promise<readonly Found[]> {
  const found: Found[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').slice(0, -1)
    if (argv.some((argument) => argument.includes(`${directory}/`))) found.push({ pid: Number(pid), argv })
  }
  return found
}

function vmm(found: readonly Found[], directory: string): Found {
  const process = found.find(({ argv }) => argv[0]?.endsWith(`/${VMM}`))
  if (process === undefined) throw new Error(`no ${VMM} works on ${directory}; there are ${found.map(({ argv }) => argv[0]).join(', ')}`)
  return process
}

export interface Changes {
  readonly directory: string
  readonly initramfs?: string
  readonly rootfs?: string
}

/** The commands of a VM that lived in `from`, for one that differs in `to`. */
export function changed(commands: VmCommands, from: string, to: Changes): VmCommands {
  const moved = (argv: Argv) => argv.map((argument) => argument.replaceAll(`${from}/`, `${to.directory}/`))
  const vmmArgv = moved(commands.vmm).map((argument, index, all) => {
    if (to.initramfs !== undefined && all[index - 1] === '-initrd') return to.initramfs
    if (to.rootfs !== undefined && argument.includes('node-name=root')) return argument.replace(/filename=[^,]*/, `filename=${to.rootfs}`)
    return argument
  })
  const helpers = commands.helpers.map(({ argv, socket }) => ({ argv: moved(argv), socket: socket.replaceAll(`${from}/`, `${to.directory}/`) }))
  return { vmm: vmmArgv, helpers }
}
