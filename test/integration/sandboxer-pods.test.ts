/** Many pods through stock containerd's CRI on the fake backend: nothing stays behind, and the sandboxer does not grow. */
import { readdir, readFile } from 'node:fs/promises'
import t from 'tap'
import { startContainerd } from '#test/node/containerd.ts'
import { leaksSince, snapshot } from '#test/node/leaks.ts'
import { startNode } from '#test/node/node.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'

const PODS = 500
const PARALLEL = 8
/** Before it counts: the heap finds its size, and everything lazy has happened. */
const WARM_UP = 250
/** A pod that is held takes 345 KiB (bench memory), 250 of them 84 MiB; over 1800 pods after the first 200 it grew by 10 when this was written. */
const GROWTH_MIB_MAX = 40

async function held(pid: number): Promise<{ readonly rssMiB: number; readonly fds: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return { rssMiB: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024, fds: (await readdir(`/proc/${pid}/fd`)).length }
}

t.test(`${PODS} pods`, async (t) => {
  await using node = await startNode()
  await using sandboxer = await startSandboxer(node, { config: { backends: { 'kuasar-fake': { kind: 'fake' } } } })
  await using containerd = await startContainerd(node)
  const before = await snapshot(node)
  const { pid } = sandboxer.service
  let next = 0
  const cycle = async (until: number) => {
    for (let index = next++; index < until; index = next++) {
      const pod = await containerd.cri.runPod({ name: `pod-${index}` }, 'kuasar-fake')
      await pod.remove()
    }
  }
  const rounds = async (until: number) => {
    await Promise.all(Array.from({ length: PARALLEL }, () => cycle(until)))
    next = until
  }
  await rounds(WARM_UP)
  const start = await held(pid)
  await rounds(PODS)
  const end = await held(pid)
  t.comment(`resident ${start.rssMiB.toFixed(0)} → ${end.rssMiB.toFixed(0)} MiB, ${start.fds} → ${end.fds} descriptors`)
  t.ok(end.rssMiB - start.rssMiB < GROWTH_MIB_MAX, `grew by ${(end.rssMiB - start.rssMiB).toFixed(1)} MiB over ${PODS - WARM_UP} pods`)
  t.ok(end.fds <= start.fds, 'no descriptor is left open')
  t.same(await leaksSince(node, before), [])
})
