/** What goes wrong on a node. */
import { setTimeout as sleep } from 'node:timers/promises'
import { explain } from '#shared/errors.ts'
import { signalProcess } from '#test/support/faults.ts'
import type { World } from './calls.ts'

const DELAY_MS_MAX = 2_500
/** How long a daemon is away. */
const AWAY_MS_MAX = 2_000

const daemonSignals = ['SIGKILL', 'SIGTERM'] as const
const processes = ['qemu', 'virtiofsd', 'virtiofsd-roots', 'vhost-device-vsock'] as const
const processSignals = ['KILL', 'STOP'] as const

type Fault = (world: World) => Promise<void>

const restart =
  (...daemons: readonly ('sandboxer' | 'containerd')[]): Fault =>
  async ({ kuasar, dice, report }) => {
    const signal = dice.pick(daemonSignals) ?? 'SIGKILL'
    report.say(`*** ${signal} to ${daemons.join(' and ')}`)
    await Promise.all(daemons.map((daemon) => kuasar[daemon].stop(signal)))
    await sleep(dice.below(AWAY_MS_MAX))
    for (const daemon of daemons) await kuasar[daemon].start()
    report.say(`*** ${daemons.join(' and ')} back`)
  }

const strike: Fault = async ({ kuasar, model, dice, report }) => {
  const pod = dice.pick(model.living)
  const process = dice.pick(processes)
  const signal = dice.pick(processSignals)
  if (pod === undefined || process === undefined || signal === undefined) return
  pod.struck = true
  report.say(`*** ${signal} to ${process} of ${pod.name}`)
  await signalProcess(kuasar.node, pod.pod.id, process, signal).catch((error: unknown) => report.say(`*** ${explain(error)}`))
}

const calm: Fault = async () => {}

const all: readonly Fault[] = [restart('sandboxer'), restart('containerd'), restart('sandboxer', 'containerd'), strike, strike, calm]

export async function anyFault(world: World): Promise<void> {
  await sleep(world.dice.below(DELAY_MS_MAX))
  await world.dice.pick(all)?.(world)
}
