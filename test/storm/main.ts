/**
 * Random CRI calls on real pods beside random faults, and after each storm a look whether all is as it must be. What is chosen
 * follows from the seed; what it meets does not, for the machine's time is nobody's to choose.
 *
 *   node test/storm/main.ts [--seed N] [--seeds N] [--storms N] [--fault NAME]…
 *
 * Fails when anything is not as the model says, hangs, or is left. The logs of both daemons are kept then.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { checkout } from '#test/node/paths.ts'
import { startKuasar } from '#test/support/kuasar.ts'
import { anyStep, giveUpPod, startPod, type World } from './calls.ts'
import { anyFault, faultNames } from './faults.ts'
import { Model } from './model.ts'
import { Dice } from './random.ts'
import { Report } from './report.ts'
import { clear, clearAll, judge } from './verdict.ts'

/** Pods that live when a storm begins. */
const PODS = 2
/** Steps of each pod before a storm, and in it. */
const CALM_STEPS = 4
const STORM_STEPS = 6
const PAUSE_MS_MAX = 300
const LULL_MS = 1_000

const { values } = parseArgs({ options: { seed: { type: 'string', default: '1' }, seeds: { type: 'string', default: '1' }, storms: { type: 'string', default: '6' }, fault: { type: 'string', multiple: true, default: [] } } })
const [first, seeds, storms] = [whole('seed'), whole('seeds'), whole('storms')]
const unknown = values.fault.find((name) => !faultNames.includes(name))
if (unknown !== undefined) throw new Error(`--fault is ${JSON.stringify(unknown)}; expected one of ${faultNames.join(', ')}`)
let faults = 0
for (let seed = first; seed < first + seeds; seed++) faults += await runSeed(seed)
process.exitCode = faults === 0 ? 0 : 1

function whole(option: 'seed' | 'seeds' | 'storms'): number {
  const number = Number(values[option])
  if (Number.isSafeInteger(number) && number > 0) return number
  throw new Error(`--${option} is ${JSON.stringify(values[option])}; expected a whole number from 1 on`)
}

async function runSeed(seed: number): Promise<number> {
  const report = new Report()
  await using kuasar = await startKuasar()
  const world: World = { kuasar, model: new Model(), dice: new Dice(seed), report }
  report.say(`seed ${seed}: ${storms} storms`)
  for (let storm = 1; storm <= storms && report.faults.length === 0; storm++) {
    while (world.model.living.length < PODS && report.faults.length === 0) await startPod(world)
    for (let step = 0; step < CALM_STEPS; step++) for (const pod of world.model.pods) await anyStep(world, pod)
    report.say(`--- storm ${storm}`)
    report.stormy = true
    await Promise.all([anyFault(world, values.fault.length > 0 ? values.fault : faultNames), world.dice.oneIn(2) ? giveUpPod(world) : startPod(world), ...[...world.model.pods].map((pod) => rush(world, pod))])
    await sleep(LULL_MS)
    report.stormy = false
    report.say('--- calm')
    await judge(world)
    await clear(world)
  }
  if (report.faults.length === 0) await clearAll(world)
  report.say(`seed ${seed}: ${report.faults.length} faults`)
  if (report.faults.length > 0) await keepLogs(seed, world)
  return report.faults.length
}

async function rush(world: World, pod: Parameters<typeof anyStep>[1]): Promise<void> {
  for (let step = 0; step < STORM_STEPS; step++) {
    await anyStep(world, pod)
    await sleep(world.dice.below(PAUSE_MS_MAX))
  }
}

async function keepLogs(seed: number, { kuasar, report }: World): Promise<void> {
  const dir = join(checkout, 'build/storm')
  await mkdir(dir, { recursive: true })
  for (const daemon of ['sandboxer', 'containerd'] as const) await writeFile(join(dir, `${seed}-${daemon}.log`), await kuasar[daemon].service.log())
  report.say(`the daemons' logs are in ${dir}`)
}
