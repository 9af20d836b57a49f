/** Many pods through stock containerd's CRI on the fake backend: nothing stays behind, and the sandboxer does not grow. */
import t from 'tap'
import { images } from '#test/images/catalog.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { leaksSince, snapshot } from '#test/node/leaks.ts'
import { startNode } from '#test/node/node.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { rpc } from '#test/host/daemon.ts'
import { exposed } from '#test/support/metrics.ts'
import { heldBySandboxer, inspected } from '#test/support/heap.ts'

const PODS = 500
const PARALLEL = 8
/** Each with a process that outlives the sandboxer, mounts, and a container: what there is to leave behind. */
const ALONE = 50
/** Before it counts: everything lazy has happened. */
const WARM_UP = 250
/** A pod that is held takes 345 KiB (bench memory), a quarter of those after the warm-up 21 MiB; in two runs it was 3 and 362 KiB less. */
const GROWTH_KIB_MAX = 1024
/** Of all: whatever was called last may hold on to whom it was about, and it was one. A sandbox alone, without what it held, is 7 KiB. */
const KEPT_MAX = PARALLEL

/** Guests of both share what a VM's would, in mounts. */
const whole = 'kuasar-fake'
const bare = 'kuasar-bare'
const config = { backends: { [whole]: { kind: 'fake-shared', processes: true }, [bare]: { kind: 'fake-shared' } } }

t.test(`${PODS} pods`, async (t) => {
  await using node = await startNode()
  await using sandboxer = await startSandboxer(node, { config, env: inspected })
  await using containerd = await startContainerd(node, { sandboxers: [whole, bare] })
  const before = await snapshot(node)
  const held = async () => ({ descriptors: (await sandboxer.service.openFiles()).length, ...(await heldBySandboxer(node)) })
  let next = 0
  const alone = async () => {
    for (; next < ALONE; next++) {
      const pod = await containerd.cri.runPod({ name: `pod-${next}` }, whole)
      await pod.run({ image: images.busybox, command: ['runs nothing'] })
      await pod.remove()
    }
  }
  const cycle = async (until: number) => {
    for (let index = next++; index < until; index = next++) {
      const pod = await containerd.cri.runPod({ name: `pod-${index}` }, bare)
      await pod.remove()
    }
  }
  const metrics = async () => {
    const admin = connectGrpc(node.path('/run/kuasar/admin.sock'))
    try {
      return exposed((await admin.calls(rpc.admin).Metrics({})).text)
    } finally {
      admin.close()
    }
  }
  const rounds = async (until: number) => {
    await Promise.all(Array.from({ length: PARALLEL }, () => cycle(until)))
    next = until
  }
  await alone()
  t.same(await leaksSince(node, before), [], `of ${ALONE} pods, one after another`)
  await rounds(WARM_UP)
  const start = await held()
  // The first reading is itself the first call of its kind.
  await metrics()
  const { series } = await metrics()
  await rounds(PODS)
  const end = await held()
  const grownKiB = end.heapKiB - start.heapKiB
  t.comment(JSON.stringify({ start, end }))
  t.ok(end.sandboxes <= KEPT_MAX, `${end.sandboxes} of ${PODS} pods are held still`)
  t.ok(grownKiB < GROWTH_KIB_MAX, `grew by ${grownKiB} KiB over ${PODS - WARM_UP} pods`)
  t.ok(end.descriptors <= start.descriptors, 'no descriptor is left open')
  const counted = await metrics()
  t.equal(counted.value('kuasar_start_seconds_count'), PODS, 'every start was counted')
  t.equal(counted.value('kuasar_sandboxes'), 0)
  t.equal(counted.series, series, 'and no pod has a series of its own')
  t.same(await leaksSince(node, before), [], `of ${PODS} pods, ${PARALLEL} at a time`)
})
