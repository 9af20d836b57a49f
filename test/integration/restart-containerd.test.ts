/** containerd is restarted under containers that print, that end meanwhile, and that wait for input. */
import { existsSync } from 'node:fs'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Container } from '#test/cri/container.ts'
import { recordOf, until } from '#test/support/faults.ts'
import { microvm, startKuasar } from '#test/support/kuasar.ts'
import { delivery, printNumbered } from '#test/support/numbered.ts'

/** Lines the flood prints at a stretch: more than all buffers on the way hold together. */
const stretch = 60_000
/** Of the container that ends meanwhile: more than containerd's window, less than the agent keeps while it is away. */
const lastWords = 30_000

/** From the news of an exit to the Delete's being under way; one that is not may prove nothing, and fails nothing. */
const DELETE_MS = 1_000

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd } = kuasar
const { cri } = containerd
const pod = await cri.runPod({ name: 'printers' }, microvm)

/** Prints stretch after stretch until /signal/stop is there, then its last number into /signal/last. */
const flood = [
  'last=0',
  'while [ ! -e /signal/stop ]; do',
  `  seq -w $(printf %07d $((last + 1))) $((last + ${stretch}))`,
  `  last=$((last + ${stretch}))`,
  '  sleep 0.05',
  'done',
  'echo $last > /signal/last',
  'exit 5',
].join('\n')

const untilThere = (path: string): string => `until [ -e ${path} ]; do sleep 0.1; done`

const whole = { lost: [], foreign: [], fragments: 0, repeated: 0 }
const words = async (container: Container): Promise<string[]> => (await container.log()).map(({ text }) => text)

/** What containerd ends with. One that does not end within 10 s of SIGTERM gets SIGKILL too, and would be found here. */
const howItEnds = { SIGTERM: { code: 0, signal: null }, SIGKILL: { code: null, signal: 'SIGKILL' } } as const

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  t.test(`${signal} under a flood of output, with a container that exits meanwhile`, async (t) => {
    const host = `/scratch/${signal}`
    await mkdir(node.path(host))
    const mounts = [{ hostPath: host, containerPath: '/signal' }]
    const floods = await pod.create({ name: `floods-${signal}`, mounts, command: ['sh', '-c', flood] })
    const ends = await pod.run({
      name: `ends-${signal}`,
      mounts,
      command: ['sh', '-c', `${untilThere('/signal/go')}; ${printNumbered(lastWords)}; touch /signal/done; exit 6`],
    })
    const echoes = await pod.run({ name: `echoes-${signal}`, stdin: true, command: ['cat'] })
    await floods.start()
    const { logPath } = await floods.status()
    await until('the flood has begun', async () => (await stat(node.path(logPath))).size > 0)

    t.strictSame(await containerd.stop(signal), howItEnds[signal], `containerd has ended of ${signal} itself`)
    await writeFile(node.path(`${host}/go`), '')
    await until('the other container has printed its last words', async () => existsSync(node.path(`${host}/done`)))
    const startMs = performance.now()
    await containerd.start()
    t.comment(`CRI was ready ${Math.round(performance.now() - startMs)} ms after containerd's start`)

    t.equal((await pod.status()).state, 'SANDBOX_READY')
    t.match(await echoes.status(), { state: 'CONTAINER_RUNNING' })
    t.match(await ends.exited(), { exitCode: 6 }, 'its true exit code')
    t.strictSame(delivery(await words(ends), lastWords), whole, 'all of its last words')

    t.match(await floods.status(), { state: 'CONTAINER_RUNNING' }, 'the flood is under way still')
    await writeFile(node.path(`${host}/stop`), '')
    t.match(await floods.exited(), { exitCode: 5 })
    const last = Number(await readFile(node.path(`${host}/last`), 'utf8'))
    const { lost, foreign, fragments, repeated } = delivery(await words(floods), last)
    t.strictSame({ lost, foreign }, { lost: [], foreign: [] }, `${last} lines of the flood, none lost`)
    t.ok(fragments <= 1, 'a line may be sent again from its middle once')
    t.comment(`${repeated} lines came twice`)

    const stream = await echoes.attach({ stdin: true })
    stream.write('still there\n')
    await stream.output((stdout) => stdout === 'still there\n')
    stream.close()
    t.match(await echoes.execSync(['echo', 'exec']), { stdout: 'exec\n', exitCode: 0 })
    for (const container of [floods, ends, echoes]) {
      await container.stop(0)
      await container.remove()
    }
  })
}

/** A Delete waits for the sandboxer's release, for up to 3 s: so this one is under way when containerd is killed, and is done when it is back. */
t.test('killed over its Delete of a container, it still learns the exit code', async (t) => {
  const host = '/scratch/exits'
  await mkdir(node.path(host))
  const exits = await pod.run({ mounts: [{ hostPath: host, containerPath: '/signal' }], command: ['sh', '-c', `${untilThere('/signal/go')}; echo gone; exit 72`] })
  kuasar.sandboxer.service.signal('SIGSTOP')
  await writeFile(node.path(`${host}/go`), '')
  await until('containerd has heard of the exit', async () => (await containerd.service.log()).includes(`received container exit event container_id:\\"${exits.id}`))
  await sleep(DELETE_MS)
  await containerd.stop('SIGKILL')
  kuasar.sandboxer.service.signal('SIGCONT')
  await until('the guest has given it back', async () => !(await recordOf(node, pod.id)).containers.includes(exits.id))
  await containerd.start()
  t.match(await exits.status(), { state: 'CONTAINER_EXITED', exitCode: 72 })
  t.equal(await exits.output(), 'gone\n')
  await exits.remove()
})

t.test('what is left', async (t) => {
  const after = await pod.run({ command: ['sh', '-c', 'echo after'] })
  await after.outputMatching(/after/)
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})
