/** What a kubelet asks for, at random. */
import type { Kuasar } from '#test/support/kuasar.ts'
import { microvm } from '#test/support/kuasar.ts'
import { podConfig } from '#test/cri/config.ts'
import { type ContainerModel, type Model, type PodModel, lives } from './model.ts'
import type { Dice } from './random.ts'
import type { Report } from './report.ts'

export interface World {
  readonly kuasar: Kuasar
  readonly model: Model
  readonly dice: Dice
  readonly report: Report
}

/** A call that is given up is, within so many ms. */
const GIVE_UP_MS_MAX = 1_500
const START_GIVE_UP_MS_MAX = 4_000
const EXIT_CODES = 100
const GRACE_S_MAX = 2
const EXEC_TIMEOUT_S = 30

/** Ends by itself in time, and of SIGTERM at once, with a code of its own. */
const waiting = (code: number) => `trap "exit ${code}" TERM; n=0; while [ $n -lt 3000 ]; do sleep 0.1; n=$((n + 1)); done; exit ${code}`
const talking = (lines: number, code: number) =>
  `n=0; while [ $n -lt ${lines} ]; do echo line $n; n=$((n + 1)); [ $((n % 100)) = 0 ] && sleep 0.2; done; exit ${code}`

export async function startPod({ kuasar, model, report }: World): Promise<void> {
  const name = model.name('pod')
  await report.attempt(`${name}: run`, true, async () => model.add(name, await kuasar.containerd.cri.runPod({ name }, microvm)))
}

/** Nothing of it may stay; whoever gives up has no id to remove it by. */
export async function giveUpPod({ kuasar, model, dice, report }: World): Promise<void> {
  const name = model.name('given-up')
  const signal = AbortSignal.timeout(dice.below(START_GIVE_UP_MS_MAX))
  await report.attempt(`${name}: run`, false, async () => {
    await kuasar.containerd.cri.runtime.RunPodSandbox({ config: podConfig({ name }), runtimeHandler: microvm }, { signal })
  })
}

type Step = (world: World, pod: PodModel) => Promise<void>

async function run(world: World, pod: PodModel, kind: string, command: (code: number) => string, then: Partial<ContainerModel>): Promise<ContainerModel | undefined> {
  if (pod.stopped) return undefined
  const { model, dice, report } = world
  const name = model.name(kind)
  const code = dice.below(EXIT_CODES)
  let container: ContainerModel | undefined
  await report.attempt(`${pod.name}: run ${name}`, lives(pod), async () => {
    const created = await pod.pod.create({ name, command: ['sh', '-c', command(code)] })
    container = { id: created.id, state: 'created', sure: false, code, ...then }
    pod.containers.set(created.id, container)
    await created.start()
    Object.assign(container, { state: 'running', sure: true }, then)
  })
  return container
}

const runWaiter: Step = async (world, pod) => void (await run(world, pod, 'waiter', waiting, {}))

const runTalker: Step = async (world, pod) => {
  const lines = 200 + world.dice.below(2000)
  await run(world, pod, 'talker', (code) => talking(lines, code), { state: 'exited', lines })
}

const runShort: Step = async (world, pod) => {
  const container = await run(world, pod, 'short', (code) => `echo done; exit ${code}`, { state: 'exited' })
  if (container?.sure !== true) return
  await world.report.attempt(`${pod.name}: a short one's exit`, lives(pod), async () => {
    const { exitCode } = await world.kuasar.containerd.cri.container(container.id).exited()
    if (exitCode !== container.code && lives(pod)) world.report.fault(`${pod.name}: it exited with ${exitCode}, not ${container.code}`)
  })
}

/** One that runs, surely. */
const running = ({ containers, stopped }: PodModel): ContainerModel | undefined =>
  stopped ? undefined : [...containers.values()].find(({ state, sure }) => state === 'running' && sure)

const exec: Step = async (world, pod) => {
  const container = running(pod)
  if (container === undefined) return
  const word = `word-${world.dice.below(1_000_000)}`
  await world.report.attempt(`${pod.name}: exec`, lives(pod), async () => {
    const request = { containerId: container.id, cmd: ['sh', '-c', `echo ${word}; exit 7`], timeout: EXEC_TIMEOUT_S }
    const { stdout, exitCode } = await world.kuasar.containerd.cri.runtime.ExecSync(request, patience(world))
    if (stdout.toString() !== `${word}\n` || exitCode !== 7) world.report.fault(`${pod.name}: an exec of ${word} said ${JSON.stringify(stdout.toString())} and exited with ${exitCode}`)
  })
}

const stopContainer: Step = async (world, pod) => {
  const container = [...pod.containers.values()].find(({ state }) => state === 'running')
  if (container === undefined) return
  const { sure } = container
  container.sure = false
  await world.report.attempt(`${pod.name}: stop a container`, lives(pod), async () => {
    const timeout = world.dice.below(GRACE_S_MAX + 1)
    await world.kuasar.containerd.cri.runtime.StopContainer({ containerId: container.id, timeout }, patience(world))
    Object.assign(container, { state: 'exited', sure: sure && lives(pod) })
  })
}

const removeContainer: Step = async (world, pod) => {
  const container = world.dice.pick([...pod.containers.values()].filter(({ lines }) => lines === undefined))
  if (container === undefined) return
  container.sure = false
  await world.report.attempt(`${pod.name}: remove a container`, lives(pod), async () => {
    await world.kuasar.containerd.cri.runtime.RemoveContainer({ containerId: container.id }, patience(world))
    pod.containers.delete(container.id)
  })
}

const listStats: Step = async ({ kuasar, report }, pod) =>
  void (await report.attempt(`${pod.name}: statistics`, false, async () => void (await kuasar.containerd.cri.runtime.ListContainerStats({}))))

const stopPod: Step = async (world, pod) => {
  const must = lives(pod)
  pod.stopped = true
  await world.report.attempt(`${pod.name}: stop`, must, async () => {
    await world.kuasar.containerd.cri.runtime.StopPodSandbox({ podSandboxId: pod.pod.id }, patience(world))
  })
}

const removePod: Step = async (world, pod) => {
  pod.stopped = true
  await world.report.attempt(`${pod.name}: remove`, false, async () => {
    await pod.pod.remove()
    world.model.pods.delete(pod)
  })
}

/** In a storm a client may give up. */
function patience({ dice, report }: World): { readonly signal?: AbortSignal } {
  return report.stormy && dice.oneIn(4) ? { signal: AbortSignal.timeout(dice.below(GIVE_UP_MS_MAX)) } : {}
}

/** As often as they stand here. */
const steps: readonly Step[] = [runWaiter, runWaiter, runTalker, runShort, exec, exec, exec, stopContainer, removeContainer, listStats]
const ends: readonly Step[] = [stopPod, removePod]

export async function anyStep(world: World, pod: PodModel): Promise<void> {
  await world.dice.pick(world.dice.oneIn(30) ? ends : steps)?.(world, pod)
}
