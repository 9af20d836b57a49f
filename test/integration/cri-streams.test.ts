/** Exec, attach and logs through CRI's streaming server and a real guest: bytes, sizes, ends, and coming back. */
import { readFile, rename } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Container } from '#test/cri/container.ts'
import type { Stream } from '#test/cri/stream.ts'
import { parseLog } from '#test/cri/log.ts'
import { until } from '#test/support/faults.ts'
import { idle, startKuasar } from '#test/support/kuasar.ts'

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node } = kuasar
const pod = await kuasar.pod('streams')
const idler = await pod.run({ name: 'idler', ...idle })

/** Resizes in one go, more than any terminal emulator sends. */
const RESIZES = 200
const last = { columns: 200, rows: 60 }

/** What an answer that is in the log gets to come on a stream before its question is typed again, in ms. */
const RETYPE_MS = 2_000

/** What the terminal says its size is, asked until it is the one wanted; then once more, for what might still come. */
async function settledSize(stream: Stream): Promise<string> {
  const said = () => stream.stdout.match(/\d+ \d+(?=\r\n)/g) ?? []
  const ask = async () => {
    const seen = said().length
    stream.write('\n')
    await stream.output(() => said().length > seen)
    return said().at(-1)
  }
  await until('the last size', async () => (await ask()) === `${last.rows} ${last.columns}`)
  return (await ask()) ?? ''
}

function storm(stream: Stream): void {
  for (let index = 0; index < RESIZES; index++) stream.resize({ columns: 20 + index, rows: 10 + (index % 40) })
  stream.resize(last)
}

/**
 * Types a word until every one of the streams has its answer: containerd answers an attach before it has joined the
 * container's output, and what was printed in between is in the log alone.
 */
async function answered(container: Container, typing: Stream, streams: readonly Stream[], word: string): Promise<void> {
  const answer = `got ${word}`
  const logged = async () => (await container.output()).split(answer).length
  await until(`${answer} on ${streams.length} streams`, async () => {
    const before = await logged()
    typing.write(`${word}\n`)
    await until(`${answer} in the log`, async () => (await logged()) > before)
    const all = Promise.all(streams.map((stream) => stream.output((stdout) => stdout.includes(answer))))
    return await Promise.race([all.then(() => true), sleep(RETYPE_MS, false)])
  })
}

t.test('a character of three bytes, cut wherever it can be', async (t) => {
  const euro = Buffer.from('€')
  const chunks: Buffer[] = []
  const print = "printf 'a\\342'; sleep 0.3; printf '\\202'; sleep 0.3; printf '\\254b'"
  const cut = await idler.exec(['sh', '-c', print], { onOutput: (_, data) => chunks.push(data) })
  await cut.done
  t.ok(chunks.length > 1, 'it came in pieces')
  t.equal(Buffer.concat(chunks).toString('hex'), Buffer.from('a€b').toString('hex'))

  // Twice, because 3 divides neither a frame of ours (32 KiB) nor one of containerd's.
  const many = Buffer.concat([Buffer.from('x'), Buffer.alloc(euro.length * 70_000, euro)])
  const echoed: Buffer[] = []
  const echo = await idler.exec(['head', '-c', String(many.length)], { stdin: true, onOutput: (_, data) => echoed.push(data) })
  for (let at = 0; at < many.length; at += 50_000) echo.write(many.subarray(at, at + 50_000))
  await echo.done
  t.ok(Buffer.concat(echoed).equals(many), 'both ways, over many frames')
  t.equal((await idler.execSync(['sh', '-c', print])).stdout, 'a€b')
})

t.test('standard output and standard error are two, and the exit code comes with them', async (t) => {
  const exec = await idler.exec(['sh', '-c', 'echo out; echo err >&2; exit 5'])
  t.match(await exec.done, { stdout: 'out\n', stderr: 'err\n', exitCode: 5 })
})

t.test('a storm of resizes: the last size wins', async (t) => {
  const exec = await idler.exec(['sh', '-c', 'while read line; do stty size; done'], { stdin: true, tty: true })
  storm(exec)
  t.equal(await settledSize(exec), `${last.rows} ${last.columns}`)
  // Ctrl-D.
  exec.write('\x04')
  t.match(await exec.done, { exitCode: 0 })
})

t.test('attach: away and back, two at once, a storm too', async (t) => {
  const shell = await pod.run({ name: 'terminal', command: ['sh', '-c', 'while read line; do echo "got $line"; stty size; done; exit 6'], stdin: true, tty: true })
  const first = await shell.attach({ stdin: true, tty: true })
  await answered(shell, first, [first], 'one')
  first.close()
  const second = await shell.attach({ stdin: true, tty: true })
  const third = await shell.attach({ stdin: true, tty: true })
  await answered(shell, second, [second, third], 'two')
  t.notMatch(second.stdout, /one/, 'what was printed before is in the log')
  storm(second)
  t.equal(await settledSize(second), `${last.rows} ${last.columns}`)
  third.write('\x04')
  t.match(await shell.exited(), { exitCode: 6 })
  t.match(await shell.output(), /got one[\s\S]*got two/)
})

t.test('standard input without a terminal: kept open, or ended with the first attach', async (t) => {
  const reading = { command: ['sh', '-c', 'while read line; do echo "got $line"; done; echo end'], stdin: true }
  const [kept, once] = [await pod.run({ name: 'kept', ...reading }), await pod.run({ name: 'once', ...reading, stdinOnce: true })]
  for (const word of ['one', 'two']) {
    const stream = await kept.attach({ stdin: true })
    await answered(kept, stream, [stream], word)
    stream.close()
  }
  t.match(await kept.status(), { state: 'CONTAINER_RUNNING' })
  const stream = await once.attach({ stdin: true })
  stream.write('only\n')
  await once.outputMatching(/got only/)
  stream.close()
  t.match(await once.exited(), { exitCode: 0 })
  t.equal(await once.output(), 'got only\nend\n')
  await kept.stop(0)
})

t.test('a log that is rotated loses no line', async (t) => {
  const counter = await pod.run({ name: 'counter', command: ['sh', '-c', 'i=0; while :; do echo line $i; i=$((i+1)); usleep 20000; done'] })
  const path = node.path((await counter.status()).logPath)
  const rotations = 3
  for (let index = 0; index < rotations; index++) {
    const before = Number((await counter.outputMatching(/line \d+\n$/)).match(/(\d+)\n$/)?.[1])
    await rename(path, `${path}.${index}`)
    await counter.reopenLog()
    await until('the log goes on in its new file', async () => {
      const text = await readFile(path, 'utf8').catch(() => '')
      return Number(text.match(/(\d+)\n$/)?.[1] ?? 0) > before
    })
  }
  await counter.stop(0)
  const files = [...Array.from({ length: rotations }, (_, index) => `${path}.${index}`), path]
  const lines = (await Promise.all(files.map(async (file) => parseLog(await readFile(file, 'utf8'))))).flat()
  t.strictSame(lines.map(({ text }) => text), lines.map((_, index) => `line ${index}`))
  t.ok(lines.length > rotations)
})

t.test('what is left', async (t) => {
  await pod.remove()
  t.strictSame(await kuasar.leaks(), [])
})
