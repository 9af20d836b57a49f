/**
 * Much at once through the whole path: a flood of output, input that nobody reads, fifty execs. Nothing is lost, nobody
 * holds more memory than its buffers, and the neighbours go on. KUASAR_LOAD_MIB takes less of the output than a GiB.
 */
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import type { Container } from '#test/cri/container.ts'
import { BLOCK_BYTES, blockOfLines, digestOf, digestOfLog } from '#test/support/bulk.ts'
import { until } from '#test/support/faults.ts'
import { idle, inside, microvm, startKuasar } from '#test/support/kuasar.ts'
import { peakMiB, resetPeak } from '#test/support/peak.ts'

const floodMiB = Number(process.env['KUASAR_LOAD_MIB'] ?? 1024)

/** More than every buffer between a client and a process holds together. */
const INPUT_MIB = 8
const EXECS = 50

/** For the whole GiB, emulated. */
const FLOOD_MS_MAX = 30 * 60_000

/** What a process may grow by, in MiB; buffers, windows and heaps that find their size, but no copy of the load. */
const GROWTH_MIB_MAX = { sandboxer: 24, containerd: 40, guest: 48 }

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, containerd, sandboxer } = kuasar
const { cri } = containerd

await mkdir(node.path('/scratch/load'))
const block = blockOfLines(1)
await writeFile(node.path('/scratch/load/block'), block)
const mounts = [{ hostPath: '/scratch/load', containerPath: '/load' }]

const pod = await cri.runPod({ name: 'loaded' }, microvm)
const neighbour = await pod.run({ name: 'neighbour', ...idle })
const elsewhere = await cri.runPod({ name: 'elsewhere' }, microvm)
const stranger = await elsewhere.run(idle)

/** All memory of the guest that is in use and cannot be taken back: its kernel's, the agent's, the containers'. */
async function guestMiB(): Promise<number> {
  const text = await inside(neighbour, 'cat /proc/meminfo')
  const KiB = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1])
  return Math.round((KiB('MemTotal') - KiB('MemAvailable')) / 1024)
}

interface Memory {
  readonly sandboxer: number
  readonly containerd: number
  readonly guest: number
}

/** Runs `work`; holds everybody's growth to its limit. The guest is looked at by `work` itself, as often as it likes. */
async function bounded(t: Test, work: (look: () => Promise<void>) => Promise<void>): Promise<void> {
  const pids = { sandboxer: sandboxer.service.pid, containerd: containerd.service.pid }
  const before: Memory = {
    sandboxer: await resetPeak(pids.sandboxer),
    containerd: await resetPeak(pids.containerd),
    guest: await guestMiB(),
  }
  let guest = before.guest
  await work(async () => {
    guest = Math.max(guest, await guestMiB())
  })
  const peak: Memory = { sandboxer: await peakMiB(pids.sandboxer), containerd: await peakMiB(pids.containerd), guest }
  for (const name of ['sandboxer', 'containerd', 'guest'] as const) {
    const text = `${name}: ${before[name]} → ${peak[name]} MiB at most`
    t.ok(peak[name] - before[name] < GROWTH_MIB_MAX[name], text)
    t.comment(text)
  }
}

/** An exec in the same guest and one in another give the right answers. */
async function neighboursAnswer(t: Test): Promise<void> {
  for (const container of [neighbour, stranger]) {
    const startMs = performance.now()
    t.match(await container.execSync(['echo', 'answer']), { stdout: 'answer\n', exitCode: 0 })
    t.comment(`exec in the ${container === neighbour ? 'same guest' : 'other guest'}: ${Math.round(performance.now() - startMs)} ms`)
  }
}

/** Open files of the whole guest. */
async function guestFiles(): Promise<number> {
  return Number((await inside(neighbour, 'cat /proc/sys/fs/file-nr')).split(/\s+/)[0])
}

async function descriptors(): Promise<number> {
  return (await sandboxer.service.openFiles()).length
}

async function end(container: Container): Promise<void> {
  await container.stop(0)
  await container.remove()
}

t.test(`a flood of at least ${floodMiB} MiB of output`, async (t) => {
  // It goes on until its neighbours have answered, and tells by a file how much it was.
  const more = `[ $i -lt ${floodMiB} ] || ! [ -e /load/enough ]`
  const print = `cp /load/block /dev/shm/block; i=0; while ${more}; do echo $i; cat /dev/shm/block; i=$((i+1)); done; echo $i >/load/blocks`
  const printer = await pod.create({ name: 'printer', mounts, command: ['sh', '-c', print] })
  const log = node.path((await printer.status()).logPath)
  await bounded(t, async (look) => {
    const startMs = performance.now()
    await printer.start()
    await until('the flood has begun', async () => (await stat(log)).size > BLOCK_BYTES)
    await neighboursAnswer(t)
    await look()
    t.match(await printer.status(), { state: 'CONTAINER_RUNNING' }, 'all of which was answered while the flood went on')
    await writeFile(node.path('/scratch/load/enough'), '')
    t.match(await printer.exited(FLOOD_MS_MAX), { exitCode: 0 })
    t.comment(`${(((await stat(log)).size / BLOCK_BYTES / (performance.now() - startMs)) * 1000).toFixed(1)} MiB/s`)
    await look()
  })
  const blocks = Number(await readFile(node.path('/scratch/load/blocks'), 'utf8'))
  const printed = function* () {
    for (let index = 0; index < blocks; index++) yield* [Buffer.from(`${index}\n`), block]
  }
  t.ok(blocks >= floodMiB, `${blocks} MiB were printed`)
  t.strictSame(await digestOfLog(log), digestOf(printed()), 'every byte of it is in the log, in order')
  await end(printer)
})

t.test('input that nobody reads, until somebody does', async (t) => {
  const input = Array.from({ length: INPUT_MIB }, (_, index) => blockOfLines(2 + index))
  const { bytes, sha256 } = digestOf(input)
  const read = `until [ -e /load/go ]; do sleep 0.1; done; head -c ${bytes} | sha256sum; sleep 1000`
  const reader = await pod.run({ name: 'reader', mounts, stdin: true, command: ['sh', '-c', read] })
  const stream = await reader.attach({ stdin: true })
  await bounded(t, async (look) => {
    for (const piece of input) stream.write(piece)
    for (let round = 0; round < 3; round++) {
      await neighboursAnswer(t)
      await look()
    }
    t.equal(stream.stdout, '', 'not a byte was read')
    await writeFile(node.path('/scratch/load/go'), '')
    await stream.output((stdout) => stdout.includes('\n'))
    t.equal(stream.stdout.slice(0, 64), sha256, `all ${INPUT_MIB} MiB came in order`)
    await look()
  })
  stream.close()
  await end(reader)
})

t.test(`${EXECS} execs at once`, async (t) => {
  const target = await pod.run({ name: 'target', ...idle })
  // What is made once, at the first exec of a container, is no leak.
  await target.execSync(['true'])
  const filesBefore = await guestFiles()
  const descriptorsBefore = await descriptors()
  await bounded(t, async (look) => {
    const script = 'echo out $0; echo err $0 >&2; exit $0'
    const answers = Array.from({ length: EXECS }, (_, index) => target.execSync(['sh', '-c', script, `${index}`]))
    const other = neighboursAnswer(t)
    const expected = Array.from({ length: EXECS }, (_, index) => ({
      stdout: `out ${index}\n`,
      stderr: `err ${index}\n`,
      exitCode: index,
    }))
    t.strictSame(await Promise.all(answers), expected, 'each with its own output and exit code')
    await other
    await look()
  })
  t.equal(await inside(target, 'set -- /proc/[0-9]*; echo $#'), '3', 'init, its sleep, and the shell that counts them')
  await until('as many files are open in the guest as before', async () => await guestFiles() <= filesBefore + FILES_SLACK)
  await until('the sandboxer holds as many descriptors as before', async () => (await descriptors()) <= descriptorsBefore)
  await end(target)
})

t.test('what is left', async (t) => {
  await pod.remove()
  await elsewhere.remove()
  t.strictSame(await kuasar.leaks(), [])
})

/** file-nr counts in batches of a CPU's own. */
const FILES_SLACK = 64
