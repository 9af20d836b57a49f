/**
 * A guest whose agent means harm (test/support/hostile-agent.ts), beside an honest pod: each attack ends with its call or
 * its connection, the sandboxer stays within its limits, and the honest pod notices nothing.
 */
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { buildImage } from '../../image/build.ts'
import { checkout, inside } from '#test/node/paths.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { recordOf, until } from '#test/support/faults.ts'
import { idle, microvm, startKuasar } from '#test/support/kuasar.ts'
import { peakMiB, resetPeak } from '#test/support/peak.ts'

const hostile = 'kuasar-hostile'
/** What V8 takes before it clears away, at a fifth of the process's time. */
const GROWTH_MIB_MAX = 96
/** The floods are of hundreds of MiB, and each must leave next to nothing in the log. */
const LOG_BYTES_MAX = 8 * 1024 * 1024

const expected: Readonly<Record<string, RegExp>> = {
  'prepare unknown': /^NOT_FOUND$/,
  'prepare foreign': /^NOT_FOUND$/,
  'prepare path': /^INVALID_ARGUMENT$/,
  // Unknown ids are no error, and another sandbox's is one of them.
  'release foreign': /^was done$/,
  'publish foreign': /^NOT_FOUND$/,
  'publish more': /^NOT_FOUND$/,
  'publish many': /^INVALID_ARGUMENT$/,
  'publish topic': /^INVALID_ARGUMENT$/,
  'publish large': /^RESOURCE_EXHAUSTED$/,
  'no hello': /^FAILED_PRECONDITION$/,
  'unspoken version': /^FAILED_PRECONDITION$/,
  // What looks like an oversized frame is skipped for as long as more of it comes, and so is a type that a later version may have.
  'garbage': /^open, the next Hello was done, then closed$/,
  'frame type': /^open, the next Hello was done, then closed$/,
  'half a frame, a hundred times': /^one open$/,
  'dials without end': /^refused$/,
  'oversized frames': /^RESOURCE_EXHAUSTED, sent$/,
  'flood of hello': /^sent$/,
  'flood of empty marks': /^sent$/,
  'flood of too many marks': /^sent$/,
  'flood of enormous hellos': /^sent$/,
  'flood of large logs': /^sent$/,
  'flood of small logs': /^sent$/,
  'flood of prepares': /^sent$/,
}

const out = join(checkout, 'build/image-hostile')
await buildImage({ out, entry: join(import.meta.dirname, '../support/hostile-agent.ts'), compression: 'none' })
t.teardown(() => rm(out, { recursive: true, force: true }))

const image = `${inside.checkout}/build/image-hostile`
const backend = {
  kind: 'qemu',
  kernel: `${image}/vmlinux`,
  initramfs: `${image}/initramfs.cpio`,
  rootfs: `${image}/rootfs.erofs`,
}
const kuasar = await startKuasar({
  sandboxer: { config: { backends: { ...sandboxerConfig.backends, [hostile]: backend } } },
  containerd: { sandboxers: [microvm, hostile] },
})
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer } = kuasar
const { cri } = kuasar.containerd

const honest = await cri.runPod({ name: 'honest' }, microvm)
const container = await honest.run(idle)
await container.execSync(['true'])

t.test('a hostile guest', async (t) => {
  const { pid } = sandboxer.service
  const startMiB = await resetPeak(pid)
  const openAtStart = (await sandboxer.service.openFiles()).length
  const pod = await cri.runPod({ name: 'hostile', dns: { servers: [], searches: [container.id], options: [] } }, hostile)
  const console = node.path(`/run/kuasar/sandboxes/${pod.id}/console.log`)
  const attacks = until('the end of the attacks', async () => {
    const text = await readFile(console, 'utf8').catch(() => {})
    if (text === undefined) throw new Error(`the guest is gone: ${JSON.stringify((await recordOf(node, pod.id)).exit)}`)
    return /attacks done|the attack failed/.test(text) ? text : undefined
  }, 400_000)
  let answers = 0
  let said: string | undefined
  while (said === undefined) {
    t.match(await container.execSync(['echo', `${answers}`]), { stdout: `${answers}\n`, exitCode: 0 })
    answers++
    said = await Promise.race([attacks, sleep(0, undefined)])
  }
  t.comment(`${answers} execs in the honest pod meanwhile`)
  for (const [name, outcome] of Object.entries(expected)) {
    t.match(new RegExp(`^attack ${name}: (.*?)\\r?$`, 'm').exec(said)?.[1] ?? 'no word', outcome, name)
  }
  t.equal(sandboxer.service.running, true)
  t.equal(sandboxer.service.pid, pid, 'the sandboxer that ran before')
  const grownMiB = (await peakMiB(pid)) - startMiB
  t.ok(grownMiB < GROWTH_MIB_MAX, `it grew from ${startMiB} by ${grownMiB} MiB at most`)
  t.comment(`it grew from ${startMiB} by ${grownMiB} MiB at most`)
  const logBytes = (await sandboxer.service.log()).length
  t.ok(logBytes < LOG_BYTES_MAX, `its log has ${logBytes} bytes`)
  t.comment(`its log has ${logBytes} bytes`)
  t.match(await container.status(), { state: 'CONTAINER_RUNNING' }, 'no event or call of the other guest touched it')

  await t.rejects(pod.run(idle), 'a container in a guest that answers with noise')
  const another = await honest.run({ command: ['echo', 'new'] })
  await another.outputMatching(/new/)
  await pod.remove()
  // The first heartbeat opens one connection to the honest guest's agent and keeps it.
  const openAtEndMax = openAtStart + 1
  await until('descriptors are as many as before', async () => (await sandboxer.service.openFiles()).length <= openAtEndMax)
})

t.test('what is left', async (t) => {
  await honest.remove()
  t.strictSame(await kuasar.leaks(), [])
})
