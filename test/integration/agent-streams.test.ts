/** The agent's streams with real containers: nothing lost, memory bounded, ends in the right order. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { hasCode } from '#shared/errors.ts'
import { AgentNode, missingForAgent } from '#test/support/agent-node.ts'
import { RawStream } from '#test/support/raw-stream.ts'
import { dialHybrid, type OutputStream, type Streams, type TaskClient } from '#test/support/task-client.ts'

const missing = missingForAgent()
if (missing !== undefined) t.bailout(`this machine lacks ${missing}`)

const MiB = 1024 * 1024

// Under load the machine's two cores are everybody's.
t.setTimeout(240_000)

const node = await AgentNode.start()
t.teardown(() => node[Symbol.asyncDispose]())

const sh = (script: string) => ({ args: ['/bin/sh', '-c', script] })

/** Whether Wait has been answered by now, which State tells, too. */
async function running(client: TaskClient, execId = ''): Promise<boolean> {
  return (await client.status(execId)) === 'RUNNING'
}

/** Resolves when the kernel has let the container's init go: it is no longer in /proc but as a zombie, or not at all. */
async function ended(pid: number): Promise<void> {
  for (;;) {
    const state = /^State:\s+(\w)/m.exec(statusOf(pid))?.[1]
    if (state === undefined || state === 'Z') return
    await new Promise((wake) => setTimeout(wake, 10))
  }
}

/** The kernel knows of a process's end before the agent does, which refuses to delete what runs. */
async function deleteOnceHeard(client: TaskClient): Promise<number> {
  for (;;) {
    try {
      return await client.delete()
    } catch (error) {
      if (!hasCode(error, 'FAILED_PRECONDITION')) throw error
      await new Promise((wake) => setTimeout(wake, 10))
    }
  }
}

/** The process as the test's own PID namespace knows it, found by its pid in the agent's. */
function statusOf(pid: number): string {
  try {
    return readFileSync(node.procPath(pid, 'status'), 'utf8')
  } catch {
    return ''
  }
}

/** Resolves when the agent has ended every connection of them. */
async function over({ stdin, stdout, stderr }: Streams): Promise<void> {
  await Promise.all([stdin?.over, stdout?.over, stderr?.over])
}

/** The next bytes until `enough` are there. */
async function read(stream: OutputStream | undefined, enough: number): Promise<string> {
  let text = ''
  while (text.length < enough) text += (await stream?.next())?.toString() ?? ''
  return text
}

t.test('input reaches the process, and its end is the half-close', async (t) => {
  using client = await node.container('stdin', sh('cat; echo end'))
  const { stdin, stdout } = await client.create({ stdin: true })
  const { exit } = await client.start()
  await stdin?.write(Buffer.from('one\n'))
  await client.calls.CloseIO({ id: 'stdin', stdin: true })
  await stdin?.write(Buffer.from('two\n'))
  stdin?.end()
  t.equal(await stdout?.text(), 'one\ntwo\nend\n', 'CloseIO may overtake what is still on its way')
  t.equal(await exit, 0)
  await stdin?.over
  await stdout?.over
  t.pass('the agent ends the connections')
  await client.delete()
})

t.test('CloseIO alone ends the input', async (t) => {
  using client = await node.container('closeio', sh('cat; echo end'))
  const { stdin, stdout } = await client.create({ stdin: true })
  await client.start()
  await stdin?.write(Buffer.from('x'))
  await client.calls.CloseIO({ id: 'closeio', stdin: true })
  t.equal(await stdout?.text(), 'xend\n')
  await client.wait()
  await client.delete()
})

t.test('input that is complete is read to its end, though its writer has gone', async (t) => {
  using client = await node.container('complete', sh('sleep 1000'))
  await client.create()
  await client.start()
  const exec = await client.exec('e', ['/bin/sh', '-c', 'read -r first; sleep 1; echo "$first $(wc -c)"'], { stdin: true })
  // 64 KiB are in the pipe, as many in what writes to it, and the rest is still in its stream.
  const rest = 160_000
  await exec.stdin?.write(Buffer.concat([Buffer.from('first\n'), Buffer.alloc(rest)]))
  exec.stdin?.end()
  await client.calls.CloseIO({ id: 'complete', execId: 'e', stdin: true })
  exec.stdin?.drop()
  t.equal(await exec.stdout?.text(), `first ${rest}\n`)
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('a terminal: size, echo, one stream', async (t) => {
  using client = await node.container('tty', { ...sh('read line; stty size; tty; echo "got $line" >&2'), terminal: true })
  const { stdin, stdout } = await client.create({ stdin: true, terminal: true })
  await client.calls.ResizePty({ id: 'tty', width: 100, height: 40 })
  const { exit } = await client.start()
  await stdin?.write(Buffer.from('hello\n'))
  const text = (await stdout?.text()) ?? ''
  t.match(text, /hello\r\n40 100\r\n\/dev\/.*\r\ngot hello\r\n/)
  t.equal(await exit, 0)
  await t.rejects(client.calls.ResizePty({ id: 'tty', width: 1, height: 1 }), { code: 'FAILED_PRECONDITION' })
  await client.delete()
})

t.test('a terminal of an exec, sized before its start', async (t) => {
  using client = await node.container('exectty', sh('sleep 1000'))
  await client.create()
  await client.start()
  const exec = await client.exec('e', ['/bin/sh', '-c', 'stty size; cat >/dev/null'], { terminal: true, stdin: true, size: [50, 20] })
  await exec.stdin?.write(Buffer.from('\x04'))
  t.match(await exec.stdout?.text(), /20 50\r\n/)
  t.equal(await exec.exit, 0)
  await client.delete('e')
  await t.rejects(client.calls.ResizePty({ id: 'exectty', width: 1, height: 1 }), { code: 'FAILED_PRECONDITION', message: /no terminal/ })
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('Wait is held, and State says RUNNING, until all output is read', async (t) => {
  using client = await node.container('drain', sh(`dd if=/dev/zero bs=1024 count=5120 2>/dev/null; exit 6`))
  const { stdout, stderr } = await client.create({ manual: true })
  const { pid, exit } = await client.start()
  let done = false
  void exit.then(() => (done = true))
  void stderr?.text()
  let bytes = (await read(stdout, 5 * MiB - 100_000)).length
  await ended(pid)
  t.equal(await running(client), true)
  t.equal(done, false)
  for (let data = await stdout?.next(); data !== undefined; data = await stdout?.next()) bytes += data.length
  t.equal(await exit, 6)
  t.equal(bytes, 5 * MiB)
  t.ok((stdout?.largestBytes ?? 0) <= 32_768, 'no message is larger than containerd can count')
  t.equal(await running(client), false)
  await client.delete()
})

t.test('a reader that dies loses nothing, also when the container ends meanwhile', async (t) => {
  const lines = 60_000
  using client = await node.container('reattach', sh(`seq ${lines}`))
  const { stdout, stderr } = await client.create({ manual: true })
  await client.start()
  void stderr?.text()
  let consumed = await read(stdout, 100_000)
  // What containerd had received and not consumed is lost with it.
  await stdout?.peek()
  stdout?.drop()
  t.equal(await running(client), true, 'RUNNING while nobody reads')
  const second = await client.open('reattach', { stderr: false, manual: true })
  consumed = merge(consumed, await read(second.stdout, 150_000))
  second.stdout?.drop()
  const third = await client.open('reattach', { stderr: false })
  consumed = merge(consumed, (await third.stdout?.text()) ?? '')
  t.equal(consumed, Array.from({ length: lines }, (_, index) => `${index + 1}\n`).join(''))
  t.equal(await client.wait(), 0)
  const late = await client.open('reattach', { stderr: false })
  t.equal(await late.stdout?.text(), '', 'a stream that was read to its end ends at once')
  await client.delete()
})

t.test('a new reader takes over from one that is still there', async (t) => {
  using client = await node.container('preempt', sh('echo first; read x; echo second'))
  const first = await client.create({ stdin: true, manual: true })
  await client.start()
  t.match(await read(first.stdout, 6), /first/)
  const second = await client.open('preempt', { stderr: false })
  await t.rejects(async () => await first.stdout?.next(), /another reader/)
  await first.stdin?.write(Buffer.from('\n'))
  t.match(await second.stdout?.text(), /second\n$/)
  void first.stderr?.text()
  t.equal(await client.wait(), 0)
  await client.delete()
})

t.test('a daemon that inherits an exec\'s output does not hold its Wait', async (t) => {
  using client = await node.container('inherit', sh('sleep 1000'))
  await client.create()
  await client.start()
  const exec = await client.exec('e', ['/bin/sh', '-c', 'echo started; sleep 1000 & exit 5'])
  t.equal(await exec.stdout?.text(), 'started\n')
  t.equal(await exec.exit, 5)
  await client.delete('e')
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('delete gives up output that nobody reads', async (t) => {
  using client = await node.container('unread', sh('echo never read'))
  const { stdout, stderr } = await client.create({ manual: true })
  stdout?.drop()
  stderr?.drop()
  const { pid } = await client.start()
  await ended(pid)
  t.equal(await running(client), true)
  t.equal(await deleteOnceHeard(client), 0)
})

t.test('the streams of what is not made after all come to their ends', async (t) => {
  using client = await node.container('refusing', sh('sleep 1000'))
  await client.create()
  await client.start()
  const refusals = [
    { execId: 'no-spec', ask: (stdio: object) => client.calls.Exec({ id: 'refusing', execId: 'no-spec', ...stdio }) },
    { execId: 'of-nobody', ask: (stdio: object) => client.calls.Exec({ id: 'nobody', execId: 'of-nobody', ...stdio }) },
    { execId: 'unknown', ask: (stdio: object) => client.calls.Create({ id: 'unknown', ...stdio }) },
  ]
  for (const { execId, ask } of refusals) {
    const streams = await client.open(execId, { stdin: true })
    await t.rejects(ask(client.stdio(execId, streams, false)), execId)
    const [stdout, stderr] = await Promise.all([streams.stdout?.text(), streams.stderr?.text()])
    t.strictSame([stdout, stderr], ['', ''])
    await streams.stdin?.write(Buffer.alloc(MiB))
    t.equal(streams.stdin?.ended, false, 'a sender that waits for credit is not cut off: containerd\'s would spin')
    streams.stdin?.end()
    await over(streams)
  }
  for (const terminal of [false, true]) {
    const execId = terminal ? 'no-such-terminal' : 'no-such'
    const streams = await client.addExec(execId, ['/no/such'], { terminal, stdin: true })
    await t.rejects(client.calls.Start({ id: 'refusing', execId }), /no such|not found/i, execId)
    t.equal(await client.delete(execId), 255)
    streams.stdin?.end()
    await over(streams)
    const early = await client.addExec(`${execId}-early`, ['/bin/true'], { terminal, stdin: true })
    t.equal(await client.delete(`${execId}-early`), 255, 'deleted before its start')
    early.stdin?.end()
    await over(early)
  }
  const never = await client.open('never-created', {})
  // Its container is removed before its start, of which containerd up to 2.2 tells no more.
  never.stdout?.end()
  never.stderr?.end()
  await over(never)
  const typed = await client.open('never-created-either', { stdin: true })
  typed.stdout?.end()
  typed.stderr?.end()
  await typed.stdin?.write(Buffer.alloc(MiB))
  t.equal(typed.stdin?.ended, false, 'its input neither waits on nor is cut off')
  typed.stdin?.end()
  await over(typed)
  const nameless = new RawStream(await dialHybrid(node.socket), 'x'.repeat(1000))
  await t.rejects(nameless.next(), /1000 characters/)
  await nameless.over
  await client.kill(9)
  await client.wait()
  await client.delete()
})

t.test('a Create that fails when its containerd has gone leaves the next one its streams', async (t) => {
  const { prepare } = node.host
  const asked = Promise.withResolvers<void>()
  const answered = Promise.withResolvers<void>()
  node.host.prepare = async (id) => {
    asked.resolve()
    await answered.promise
    return prepare(id)
  }
  const first = await node.container('again', sh('echo heard'))
  const lost = first.create()
  lost.catch(() => {})
  await asked.promise
  first[Symbol.dispose]()
  await t.rejects(lost)
  using second = await node.container('again', sh('echo heard'))
  const streams = await second.open('again', {})
  node.host.prepare = prepare
  answered.resolve()
  // A Delete waits for the Create that is under way.
  await t.rejects(second.delete(), { code: 'NOT_FOUND' })
  await second.calls.Create({ id: 'again', bundle: '/bundles/again', ...second.stdio('again', streams, false) })
  const { exit } = await second.start()
  t.equal(await streams.stdout?.text(), 'heard\n')
  t.equal(await exit, 0)
  await second.delete()
})

t.test('one gibibyte, with the agent\'s memory bounded', async (t) => {
  const count = 1024
  using client = await node.container('gibibyte', sh(`dd if=/dev/zero bs=${MiB} count=${count} 2>/dev/null`))
  const { stdout, stderr } = await client.create({ manual: true })
  const { exit } = await client.start()
  void stderr?.text()
  let bytes = 0
  for (let data = await stdout?.next(); data !== undefined; data = await stdout?.next()) bytes += data.length
  t.equal(bytes, count * MiB)
  t.equal(await exit, 0)
  const peakKiB = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(node.procPath(node.agentPid(), 'status'), 'utf8'))?.[1])
  t.ok(peakKiB < 256 * 1024, `the agent peaked at ${peakKiB} KiB`)
  await client.delete()
})

t.test('a process that never reads costs one window, and others go on', async (t) => {
  using client = await node.container('neverreads', sh('sleep 1000'))
  const { stdin } = await client.create({ stdin: true })
  await client.start()
  const sent = stdin?.write(Buffer.alloc(8 * MiB))
  const exec = await client.exec('e', ['/bin/echo', 'still here'])
  t.equal(await exec.stdout?.text(), 'still here\n')
  t.equal(stdin?.credit, 0, 'no credit beyond what the pipe took')
  await client.kill(9)
  t.equal(await client.wait(), 137)
  await sent
  t.equal(stdin?.ended, false, 'containerd ends the stream: one that ends under its wait for credit makes it spin')
  stdin?.end()
  await stdin?.over
  await client.delete()
})

/** At-least-once joined: `again` may repeat the end of `have`, and goes on from there. */
function merge(have: string, again: string): string {
  for (let overlap = Math.min(have.length, 196_608); overlap >= 0; overlap--) {
    if (again.startsWith(have.slice(have.length - overlap))) return have + again.slice(overlap)
  }
  return have + again
}
