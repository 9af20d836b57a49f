/** Twenty microVM pods come and go, alone and side by side: nothing of them stays, and the sandboxer does not grow. */
import t, { type Test } from 'tap'
import { idle, inside, startKuasar } from '#test/support/kuasar.ts'
import { heldBySandboxer, inspected } from '#test/support/heap.ts'

const PODS = 20
/** At a time: what two processors without hardware virtualisation bear. */
const PARALLEL = 4
/** Pods before it counts: everything lazy has happened. */
const WARM_UP = 4
/**
 * Over 16 pods, 345 KiB each if they were held (bench memory). What V8 learns of its
 * code meanwhile was 1.4 to 1.6 MiB, and nothing more came after the 16th of 44 pods.
 */
const GROWTH_KIB_MAX = 4096
/** Whatever was called last may hold on to whom it was about. */
const KEPT_MAX = 2

const kuasar = await startKuasar({ sandboxer: { env: inspected } })
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd, sandboxer } = kuasar

/** The whole life of a pod with a container that prints, one that answers an exec, and one that is still running. */
async function life(t: Test, index: number): Promise<void> {
  const pod = await kuasar.pod(`pod-${index}`)
  const container = await pod.run({ ...idle, name: 'idle' })
  t.equal(await inside(container, `echo ${index}; hostname`), `${index}\npod-${index}`)
  if (index % 2 === 0) {
    const short = await pod.run({ name: 'short', command: ['sh', '-c', `exit ${index}`] })
    t.match(await short.exited(), { exitCode: index })
  }
  // What the pod's removal takes with it is as much as what was removed before.
  await pod.remove()
}

const held = async () => ({
  descriptors: (await sandboxer.service.openFiles()).length,
  containerd: (await containerd.service.openFiles()).length,
  ...(await heldBySandboxer(node)),
})

t.test(`${PODS} pods, one after another and ${PARALLEL} at a time`, async (t) => {
  for (let index = 0; index < WARM_UP; index++) await life(t, index)
  t.strictSame(await kuasar.leaks(), [], `nothing is left of ${WARM_UP} pods`)
  const before = await held()
  for (let index = WARM_UP; index < PODS - 2 * PARALLEL; index++) await life(t, index)
  for (let first = PODS - 2 * PARALLEL; first < PODS; first += PARALLEL) {
    await Promise.all(Array.from({ length: PARALLEL }, (_, offset) => life(t, first + offset)))
  }
  t.strictSame(await kuasar.leaks(), [], `nothing is left of ${PODS} pods`)
  const after = await held()
  const grownKiB = after.heapKiB - before.heapKiB
  t.comment(`held ${before.heapKiB} KiB and ${grownKiB} more, ${before.sandboxes} → ${after.sandboxes} sandboxes, descriptors ${before.descriptors} → ${after.descriptors}, containerd's ${before.containerd} → ${after.containerd}`)
  t.ok(after.sandboxes <= KEPT_MAX, `${after.sandboxes} of ${PODS} pods are held still`)
  t.ok(grownKiB < GROWTH_KIB_MAX, `the sandboxer grew by ${grownKiB} KiB`)
  t.ok(after.descriptors <= before.descriptors, 'it left no descriptor open')
  t.ok(after.containerd <= before.containerd, 'nor did it make containerd leave one open')
})
