/** Whether all is as the model says, once the storm is over. */
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseLog } from '#test/cri/log.ts'
import { explain } from '#shared/errors.ts'
import type { World } from './calls.ts'
import { type ContainerModel, type PodModel, lives } from './model.ts'

/** For the exit of a death, for containerd's second try of a Delete, for a talker's end. */
const SETTLE_MS_MAX = 60_000
const LOOK_MS = 500
const EXEC_TIMEOUT_S = 30
/** Of SIGTERM and SIGKILL, as containerd counts. */
const KILLED: readonly number[] = [137, 143]

export async function judge(world: World): Promise<void> {
  for (const pod of world.model.pods) await settled(world, `after the storm ${pod.name}`, () => complaintOf(world, pod))
}

/** Pods that no longer live are removed, as a kubelet does it: until it succeeds. */
export async function clear(world: World): Promise<void> {
  for (const pod of [...world.model.pods].filter((one) => !lives(one))) {
    await settled(world, `the removal of ${pod.name}`, async () => {
      await pod.pod.remove()
      world.model.pods.delete(pod)
      return undefined
    })
  }
}

export async function clearAll(world: World): Promise<void> {
  await settled(world, 'the removal of all pods', async () => {
    await world.kuasar.containerd.cri.removeAll()
    return undefined
  })
  // The kubelet's own part, the pods' cgroups, is missing for pods that were given up.
  const left = (await world.kuasar.leaks()).filter((leak) => !/^cgroup .*\/kubepods\/pod[^/]+$/.test(leak))
  for (const leak of left) world.report.fault(`left: ${leak}`)
}

async function settled({ report }: World, what: string, look: () => Promise<string | undefined>): Promise<void> {
  const endMs = Date.now() + SETTLE_MS_MAX
  for (;;) {
    const complaint = await look().catch(explain)
    if (complaint === undefined) return
    if (Date.now() > endMs) return report.fault(`${what}: ${complaint.slice(0, 400)}`)
    await sleep(LOOK_MS)
  }
}

async function complaintOf(world: World, pod: PodModel): Promise<string | undefined> {
  // A stop that was given up may or may not have stopped it.
  if (pod.stopped && pod.struck !== 'surely') return undefined
  const { state } = await pod.pod.status()
  if (pod.struck === 'surely') return state === 'SANDBOX_NOTREADY' ? undefined : `it is ${state} though its VM was struck`
  if (pod.struck === 'perhaps' && state === 'SANDBOX_NOTREADY') return undefined
  if (state !== 'SANDBOX_READY') return `it is ${state}`
  for (const container of pod.containers.values()) {
    const complaint = container.sure ? await complaintOfContainer(world, container) : undefined
    if (complaint !== undefined) return `container ${container.id.slice(0, 12)} ${complaint}`
  }
  return undefined
}

async function complaintOfContainer({ kuasar }: World, { id, state: wanted, code, lines, moved }: ContainerModel): Promise<string | undefined> {
  const container = kuasar.containerd.cri.container(id)
  const { state, exitCode, reason } = await container.status()
  const is = `is ${state} (${exitCode} ${reason})`
  if (wanted === 'running') {
    if (state !== 'CONTAINER_RUNNING') return is
    const { stdout } = await container.execSync(['echo', 'here'], EXEC_TIMEOUT_S)
    return stdout === 'here\n' ? undefined : `answers an exec with ${JSON.stringify(stdout)}`
  }
  if (wanted !== 'exited') return undefined
  if (state !== 'CONTAINER_EXITED' || (exitCode !== code && (lines !== undefined || !KILLED.includes(exitCode)))) return `${is}, not exited with ${code}`
  if (lines === undefined) return undefined
  const before = await Promise.all(moved.map(async (path) => parseLog(await readFile(kuasar.node.path(path), 'utf8'))))
  return missingLine([...before.flat(), ...(await container.log())].map(({ text }) => text), lines)
}

/** After a restart of containerd lines may come twice; each must have come after those before it. */
function missingLine(texts: readonly string[], lines: number): string | undefined {
  let next = 0
  for (const text of texts) {
    const number = Number(text.replace('line ', ''))
    if (!(number <= next)) return `has ${JSON.stringify(text)} where line ${next} was due`
    if (number === next) next++
  }
  return next === lines ? undefined : `has said ${next} of ${lines} lines`
}
