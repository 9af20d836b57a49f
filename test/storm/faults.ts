/** What goes wrong on a node. */
import { setTimeout as sleep } from 'node:timers/promises'
import { explain } from '#shared/errors.ts'
import { pidOf, signalProcess } from '#test/support/faults.ts'
import type { World } from './calls.ts'

const DELAY_MS_MAX = 2_500
/** How long a daemon is away. */
const AWAY_MS_MAX = 2_000

const daemonSignals = ['SIGKILL', 'SIGTERM'] as const
/** How long what is only held up stands still, and how long a disk is full. */
const HOLD_MS_MAX = 1_500

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
  pod.struck = 'surely'
  report.say(`*** ${signal} to ${process} of ${pod.name}`)
  await signalProcess(kuasar.node, pod.pod.id, process, signal).catch((error: unknown) => report.say(`*** ${explain(error)}`))
}

/** Shorter than what is taken for a death, or longer. */
const holdProcess: Fault = async ({ kuasar, model, dice, report }) => {
  const pod = dice.pick(model.living)
  const process = dice.pick(processes)
  if (pod === undefined || process === undefined) return
  pod.struck = 'perhaps'
  report.say(`*** STOP and CONT to ${process} of ${pod.name}`)
  const pid = await pidOf(kuasar.node, pod.pod.id, process).catch(() => {})
  if (pid === undefined) return
  // A death of it meanwhile is no fault of ours.
  await kuasar.sh(`kill -STOP ${pid} && sleep ${dice.below(HOLD_MS_MAX) / 1000} && kill -CONT ${pid} || true`)
}

const holdDaemons =
  (...daemons: readonly ('sandboxer' | 'containerd')[]): Fault =>
  async ({ kuasar, dice, report }) => {
    report.say(`*** STOP to ${daemons.join(' and ')}`)
    for (const daemon of daemons) kuasar[daemon].service.signal('SIGSTOP')
    await sleep(dice.below(AWAY_MS_MAX))
    for (const daemon of daemons) kuasar[daemon].service.signal('SIGCONT')
    report.say(`*** CONT to ${daemons.join(' and ')}`)
  }

/** Everything in a guest but PID 1 gets SIGKILL (sysrq.rst, "i"). */
const strikeGuest: Fault = async ({ model, dice, report }) => {
  const pod = dice.pick(model.living)
  if (pod === undefined) return
  // The container may not come as far as that.
  pod.struck = 'perhaps'
  report.say(`*** every process in the guest of ${pod.name} is killed`)
  const config = { command: ['sh', '-c', 'echo i >/proc/sysrq-trigger'], security: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } } as const
  await pod.pod.run(config).catch((error: unknown) => report.say(`*** ${explain(error).split('\n', 1)[0]?.slice(0, 100)}`))
}

/** Bundles, ledgers and sockets are there. */
const fillRun: Fault = async ({ kuasar, dice, report }) => {
  report.say('*** /run is full')
  await kuasar.sh('mount -n -o remount,size=$(df -k --output=used /run | tail -n 1 | tr -d " ")k /run')
  await sleep(dice.below(HOLD_MS_MAX))
  await kuasar.sh('mount -n -o remount,size=50% /run')
  report.say('*** /run has room')
}

const calm: Fault = async () => {}

/** Each as often as its number says, by the names of `--fault`. */
const faults: Readonly<Record<string, readonly [Fault, number]>> = {
  'restart-sandboxer': [restart('sandboxer'), 2],
  'restart-containerd': [restart('containerd'), 2],
  'restart-both': [restart('sandboxer', 'containerd'), 2],
  'hold-sandboxer': [holdDaemons('sandboxer'), 1],
  'hold-containerd': [holdDaemons('containerd'), 1],
  'hold-process': [holdProcess, 1],
  'full-run': [fillRun, 1],
  strike: [strike, 4],
  'strike-guest': [strikeGuest, 1],
  calm: [calm, 1],
}

export const faultNames = Object.keys(faults)

/** One, or two after each other, of those that are named. */
export async function anyFault(world: World, names: readonly string[] = faultNames): Promise<void> {
  const chosen = names.flatMap((name) => Array.from({ length: faults[name]?.[1] ?? 0 }, () => faults[name]?.[0] ?? calm))
  for (let left = world.dice.oneIn(3) ? 2 : 1; left > 0; left--) {
    await sleep(world.dice.below(DELAY_MS_MAX))
    await world.dice.pick(chosen)?.(world)
  }
}
