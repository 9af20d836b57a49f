/** What a kubelet asks for, at random. */
import { rename } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { hasCode } from '#shared/errors.ts'
import { inside } from '#test/node/paths.ts'
import type { Kuasar } from '#test/support/kuasar.ts'
import { microvm } from '#test/support/kuasar.ts'
import { type ContainerConfig, containerConfig, podConfig } from '#test/cri/config.ts'
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
const SHORT_TIMEOUT_S = 1
const ECHO_PORT = 7000
/** From a server's start to its listening. */
const LISTEN_MS_MAX = 20_000
const MiB = 1024 * 1024

/** Ends by itself in time, and of SIGTERM at once, with a code of its own. */
const waiting = (code: number) => `trap "exit ${code}" TERM; n=0; while [ $n -lt 3000 ]; do sleep 0.1; n=$((n + 1)); done; exit ${code}`
const talking = (lines: number, code: number) =>
  `n=0; while [ $n -lt ${lines} ]; do echo line $n; n=$((n + 1)); [ $((n % 100)) = 0 ] && sleep 0.2; done; exit ${code}`

export async function startPod({ kuasar, model, report }: World): Promise<void> {
  const name = model.name('pod')
  // Privileged, for what a fault does in a guest.
  const config = { name, linux: { securityContext: { privileged: true } } }
  await report.attempt(`${name}: run`, true, async () => model.add(name, await kuasar.containerd.cri.runPod(config, microvm)))
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

const EMPTY: Partial<ContainerConfig> = {}

async function run(world: World, pod: PodModel, kind: string, command: (code: number) => string, then: Partial<ContainerModel>, config = EMPTY): Promise<ContainerModel | undefined> {
  if (pod.stopped) return undefined
  const { kuasar, model, dice, report } = world
  const name = model.name(kind)
  const code = dice.below(EXIT_CODES)
  let container: ContainerModel | undefined
  await report.attempt(`${pod.name}: run ${name}`, lives(pod), async () => {
    const { id } = await pod.pod.create({ ...containerConfig({ name, command: ['sh', '-c', command(code)] }), ...config })
    container = { id, state: 'created', sure: false, code, moved: [], ...then }
    pod.containers.set(id, container)
    const limits = patience(world)
    if (limits.signal !== undefined) container.givenUp = true
    await kuasar.containerd.cri.runtime.StartContainer({ containerId: id }, limits)
    delete container.givenUp
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

/** It may not take the container with it, nor hold up whoever asks next. */
const execTooLong: Step = async (world, pod) => {
  const container = running(pod)
  if (container === undefined) return
  await world.report.attempt(`${pod.name}: an exec that takes too long`, lives(pod), async () => {
    const request = { containerId: container.id, cmd: ['sleep', '100'], timeout: SHORT_TIMEOUT_S }
    const answer = world.kuasar.containerd.cri.runtime.ExecSync(request, patience(world))
    const late = await answer.catch((error: unknown) => {
      if (!hasCode(error, 'DEADLINE_EXCEEDED')) throw error
    })
    if (late !== undefined) world.report.fault(`${pod.name}: an exec of ${SHORT_TIMEOUT_S} s at most exited with ${late.exitCode}`)
  })
}

/** A client who goes in the middle of it. */
const execStream: Step = async (world, pod) => {
  const container = running(pod)
  if (container === undefined) return
  await world.report.attempt(`${pod.name}: an exec with streams`, lives(pod), async () => {
    const stream = await world.kuasar.containerd.cri.container(container.id).exec(['cat'], { stdin: true, tty: world.dice.oneIn(2) })
    stream.done.catch(() => {})
    try {
      stream.write('here\n')
      await stream.output((stdout) => stdout.includes('here'))
    } finally {
      stream.close()
    }
  })
}

const update: Step = async (world, pod) => {
  const container = running(pod)
  if (container === undefined) return
  await world.report.attempt(`${pod.name}: update a container`, lives(pod), async () => {
    const linux = { cpuShares: String(2 + world.dice.below(2000)), memoryLimitInBytes: String((32 + world.dice.below(32)) * MiB) }
    await world.kuasar.containerd.cri.runtime.UpdateContainerResources({ containerId: container.id, linux }, patience(world))
  })
}

/** As a kubelet does it; where the log cannot be opened anew, containerd goes on in the old one. */
const moveLog: Step = async (world, pod) => {
  const container = world.dice.pick([...pod.containers.values()].filter(({ lines, sure, state }) => sure && (lines !== undefined || state === 'running')))
  if (container === undefined) return
  await world.report.attempt(`${pod.name}: move a log`, false, async () => {
    const { cri } = world.kuasar.containerd
    const { state, logPath } = await cri.container(container.id).status()
    // containerd refuses what does not run.
    if (state !== 'CONTAINER_RUNNING') return
    const moved = `${logPath}.${container.moved.length}`
    await rename(world.kuasar.node.path(logPath), world.kuasar.node.path(moved))
    container.moved.push(moved)
    await cri.runtime.ReopenContainerLog({ containerId: container.id }, patience(world))
  })
}

const forward: Step = async (world, pod) => {
  if (pod.stopped) return
  const mounts = [{ hostPath: `${inside.checkout}/build/test/tcp-server`, containerPath: '/tcp-server', readonly: true }]
  const echoing = [...pod.containers.values()].find(({ echoes, state }) => echoes && state === 'running')
  if (echoing === undefined) {
    await run(world, pod, 'echo', (code) => `trap "exit ${code}" TERM; /tcp-server 0.0.0.0 ${ECHO_PORT} echo & wait`, { echoes: true }, { mounts })
    return
  }
  const { sure } = echoing
  await world.report.attempt(`${pod.name}: forward`, sure && lives(pod), async () => {
    const endMs = Date.now() + LISTEN_MS_MAX
    const word = `word-${world.dice.below(1_000_000)}`
    while ((await echo(world, pod, word)) !== word) {
      // Whoever may not find it tries once.
      if (!echoing.sure || !lives(pod) || Date.now() > endMs) throw new Error(`no echo of ${word}`)
      await sleep(LISTEN_MS_MAX / 40)
    }
  })
}

async function echo({ dice, report }: World, { pod }: PodModel, word: string): Promise<string> {
  const connection = await pod.portForward(ECHO_PORT)
  try {
    const [port] = connection.ports
    if (port === undefined) return ''
    await port.write(word)
    if (report.stormy && dice.oneIn(4)) return word
    await port.until((received, error) => error !== '' || received.length >= word.length).catch(() => {})
    return port.received.toString()
  } finally {
    connection.close()
  }
}

const stopContainer: Step = async (world, pod) => {
  const container = [...pod.containers.values()].find(({ state }) => state === 'running')
  if (container === undefined) return
  const { sure } = container
  container.sure = false
  await world.report.attempt(`${pod.name}: stop a container`, lives(pod), async () => {
    const timeout = world.dice.below(GRACE_S_MAX + 1)
    await once(world, (limits) => world.kuasar.containerd.cri.runtime.StopContainer({ containerId: container.id, timeout }, limits))
    Object.assign(container, { state: 'exited', sure: sure && lives(pod) })
  })
}

const removeContainer: Step = async (world, pod) => {
  const container = world.dice.pick([...pod.containers.values()].filter(({ lines }) => lines === undefined))
  if (container === undefined) return
  container.sure = false
  await world.report.attempt(`${pod.name}: remove a container`, lives(pod) && !container.givenUp, async () => {
    await once(world, (limits) => world.kuasar.containerd.cri.runtime.RemoveContainer({ containerId: container.id }, limits))
    pod.containers.delete(container.id)
  })
}

const listStats: Step = async ({ kuasar, report }, pod) =>
  void (await report.attempt(`${pod.name}: statistics`, false, async () => void (await kuasar.containerd.cri.runtime.ListContainerStats({}))))

const stopPod: Step = async (world, pod) => {
  const must = lives(pod)
  pod.stopped = true
  await world.report.attempt(`${pod.name}: stop`, must, async () => {
    await once(world, (limits) => world.kuasar.containerd.cri.runtime.StopPodSandbox({ podSandboxId: pod.pod.id }, limits))
  })
}

const removePod: Step = async (world, pod) => {
  pod.stopped = true
  const unstopped = world.dice.oneIn(2)
  await world.report.attempt(`${pod.name}: remove${unstopped ? ' without a stop' : ''}`, false, async () => {
    if (unstopped) await once(world, (limits) => world.kuasar.containerd.cri.runtime.RemovePodSandbox({ podSandboxId: pod.pod.id }, limits))
    await pod.pod.remove()
    world.model.pods.delete(pod)
  })
}

/** Asked once, or twice at the same time, as by a kubelet that was restarted: one of the two must do it. */
async function once(world: World, call: (limits: ReturnType<typeof patience>) => Promise<unknown>): Promise<void> {
  const calls = Array.from({ length: world.dice.oneIn(6) ? 2 : 1 }, () => call(patience(world)))
  const ends = await Promise.allSettled(calls)
  const failed = ends.find(({ status }) => status === 'rejected')
  if (failed?.status === 'rejected' && ends.every(({ status }) => status === 'rejected')) throw failed.reason
}

/** In a storm a client may give up. */
function patience({ dice, report }: World): { readonly signal?: AbortSignal } {
  return report.stormy && dice.oneIn(4) ? { signal: AbortSignal.timeout(dice.below(GIVE_UP_MS_MAX)) } : {}
}

/** As often as they stand here. */
const steps: readonly Step[] = [runWaiter, runWaiter, runTalker, runShort, exec, exec, exec, execTooLong, execStream, stopContainer, removeContainer, listStats, update, moveLog, forward]
const ends: readonly Step[] = [stopPod, removePod]

export async function anyStep(world: World, pod: PodModel): Promise<void> {
  await world.dice.pick(world.dice.oneIn(30) ? ends : steps)?.(world, pod)
}
