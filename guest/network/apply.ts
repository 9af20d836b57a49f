/** The pod's network put into effect, at boot and whenever the host's has changed. Loopback is PID 1's work. */
import { closeSync, existsSync, openSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { RuntimeError } from '#shared/errors.ts'
import { Mailbox } from '#shared/mailbox.ts'
import type { PodNetwork } from '#shared/network.ts'
import type { ChildEnd, Processes } from '#shared/os/contract.ts'
import { changeCommands, type Device, setUpCommands, withEveryCard } from './plan.ts'

const IP_MS_MAX = 60_000
const IP = '/usr/bin/ip'
const DEVICES = '/sys/class/net'

export class Network {
  readonly #sysctl: string
  readonly #directory: string
  readonly #processes: Pick<Processes, 'spawn'>
  #cards: PodNetwork['links'] = []
  #now: PodNetwork = { links: [], routes: [], neighbours: [] }
  readonly #mailbox = new Mailbox('network')

  /** `sysctl`: where kernel parameters are files; `directory`: where a batch may be written. */
  constructor(sysctl: string, directory: string, processes: Pick<Processes, 'spawn'>) {
    this.#sysctl = sysctl
    this.#directory = directory
    this.#processes = processes
  }

  /** Once per boot. Nothing to do is no reason to look for `ip`. Errors: the command that failed and what `ip` said. */
  async setUp(network: PodNetwork, made: readonly string[]): Promise<void> {
    if (network.links.length > 0 || network.routes.length > 0) {
      const devices = cards()
      this.#onlyWhatItIsGiven(devices)
      await this.#run(setUpCommands(network, made, devices), false)
    }
    this.#now = network
    this.#cards = network.links
  }

  /** One at a time. What fails does not keep the rest from being done; the error names it. */
  update(network: PodNetwork): Promise<void> {
    return this.#mailbox.run(async () => {
      const wanted = withEveryCard(network, this.#cards)
      const commands = changeCommands(this.#now, wanted)
      this.#now = wanted
      if (commands.length > 0) await this.#run(commands, true)
    })
  }

  /**
   * One process for all: under emulation each costs tens of milliseconds. `force`: a failure does not end it. By files, not
   * pipes: the agent's first pipes to a child would cost as much again.
   */
  async #run(commands: readonly string[], force: boolean): Promise<void> {
    const batch = `${this.#directory}/network.batch`
    const complaints = `${this.#directory}/network.err`
    writeFileSync(batch, `${commands.join('\n')}\n`)
    const nothing = openSync('/dev/null', 'r+')
    const stderr = openSync(complaints, 'w')
    let timer: NodeJS.Timeout | undefined
    try {
      const stdio = { stdin: nothing, stdout: nothing, stderr }
      const ip = this.#processes.spawn({ file: IP, args: [...(force ? ['-force'] : []), '-batch', batch], env: {}, stdio })
      timer = setTimeout(() => ip.kill(), IP_MS_MAX)
      const end = await ip.ended
      if (end.exitCode !== 0) throw failure(commands, readFileSync(complaints, 'utf8'), end)
    } finally {
      clearTimeout(timer)
      closeSync(stderr)
      closeSync(nothing)
    }
  }

  /** The kernel shall make no addresses of its own and learn none: router advertisements went to the host's kernel. */
  #onlyWhatItIsGiven(devices: readonly Device[]): void {
    const conf = `${this.#sysctl}/net/ipv6/conf`
    if (!existsSync(conf)) return
    for (const name of ['default', ...devices.map((device) => device.name)]) {
      if (existsSync(`${conf}/${name}`)) writeFileSync(`${conf}/${name}/accept_ra`, '0')
    }
    // IN6_ADDR_GEN_MODE_NONE; "all" reaches the devices there are. Source: kernel, ip-sysctl.rst.
    for (const name of ['default', 'all']) writeFileSync(`${conf}/${name}/addr_gen_mode`, '1')
  }
}

/** In the order of their indexes, which is that of their PCI slots. */
function cards(): Device[] {
  const read = (name: string, file: string) => readFileSync(`${DEVICES}/${name}/${file}`, 'latin1').trim()
  return readdirSync(DEVICES)
    .filter((name) => name !== 'lo')
    .map((name) => ({ name, mac: read(name, 'address'), index: Number(read(name, 'ifindex')) }))
    .sort((a, b) => a.index - b.index)
}

/** What `ip` said of the commands that failed: "Command failed FILE:LINE" follows each message. */
function failure(commands: readonly string[], said: string, { exitCode, signal }: ChildEnd): RuntimeError {
  const failed = [...said.matchAll(/^Command failed .*:(\d+)$/gm)].map(([, line]) => commands[Number(line) - 1] ?? '')
  const message = said.replaceAll(/^Command failed .*:\d+$/gm, '').trim().replaceAll(/\s*\n\s*/g, ' ')
  return new RuntimeError('INTERNAL', `ip ${failed.join('; ') || '-batch'}: ${message || `ended with ${String(exitCode ?? signal)}`}`)
}
