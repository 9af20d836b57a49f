/** Looking into the agent of a pod's guest, as an operator does: kuasarctl on the node, the sandboxer, the agent in its VM. */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import { inside as paths } from '#test/node/paths.ts'
import { sandboxerConfig } from '#test/node/sandboxer.ts'
import { idle, inside, startKuasar } from '#test/support/kuasar.ts'

t.setTimeout(600_000)

const kuasar = await startKuasar()
t.teardown(() => kuasar[Symbol.asyncDispose]())
const { node, sandboxer } = kuasar
const pod = await kuasar.pod('seen')
const container = await pod.run({ name: 'idler', ...idle })
const ctl = (command: string) => kuasar.sh(`${paths.checkout}/host/ctl/kuasarctl ${command}`)
const debug = (expression: string) => ctl(`debug ${pod.id} '${expression}'`)

t.test('it is off, and the error says how it is turned on', async (t) => {
  for (const command of [`debug ${pod.id} 1`, `profile ${pod.id}`, `heap ${pod.id}`]) {
    await t.rejects(ctl(`${command} 2>&1 >/dev/null`), /set debug = true in the table \[sandboxer\]/, command)
  }
})

t.test('turned on under a running pod', async (t) => {
  await sandboxer.stop()
  await sandboxer.start({ config: { ...sandboxerConfig, sandboxer: { debug: true } } })

  await t.test('an expression runs in the agent, in the VM', async (t) => {
    t.equal(await debug('agent.containers.all().map(({ id }) => id).join()'), `${container.id}\n`)
    const release = await debug('require("fs").readFileSync("/proc/sys/kernel/osrelease", "utf8").trim()')
    t.equal(release, `${await inside(container, 'uname -r')}\n`)
    t.not(release, await kuasar.sh('uname -r'))
    t.equal(await debug('process.moduleLoadList.includes("NativeModule tty")'), 'false\n', 'Node makes no terminal of its console: guest/console.ts')
    t.match(await debug('agent.containers'), /^Containers \{[\s\S]*\n {2}#\w+: Map\(1\)/)
    t.equal(await ctl(`debug ${pod.id} <<'end'\nlet pids = agent.containers.all().map(({ init }) => init.state.pid)\npids.length\nend`), '1\n')
    await t.rejects(ctl(`debug ${pod.id} 'null.x' 2>&1`), /TypeError: Cannot read properties of null/)
  })

  await t.test('the examples of docs/debugging.md', async (t) => {
    const page = await readFile(new URL('../../docs/debugging.md', import.meta.url), 'utf8')
    const examples = [...page.matchAll(/^kuasarctl (debug ID '[^']+')/gm)].map(([, command = '']) => command)
    t.ok(examples.length > 5)
    for (const example of examples) t.match(await ctl(example.replace('ID', pod.id)), /\S/, example)
  })

  await t.test('what it prints cannot drive a terminal', async (t) => {
    t.equal(await debug('"\\x1b]0;title\\x07\\x1b[31mred\\ttab"'), '0;titlered\ttab\n')
  })

  await t.test('a console takes programs of several lines', async (t) => {
    const typed = '[1, 2, 3].map((n) => {\\n return n * 7\\n})\\nagent.none.x\\n\\004'
    // script(1) is its terminal.
    const said = await kuasar.sh(`printf '${typed}' | script -qec "${paths.checkout}/host/ctl/kuasarctl debug ${pod.id}" /dev/null`)
    t.match(said, /\[ 7, 14, 21 \][\s\S]*TypeError: Cannot read properties of undefined/)
  })

  await t.test('an endless loop is ended, and the pod lives', async (t) => {
    await t.rejects(ctl(`debug ${pod.id} 'for (;;);' 2>&1`), /ran for 5000 ms without an await/)
    t.equal(await inside(container, 'echo alive'), 'alive')
  })

  await t.test('a profile and the heap are files that V8\'s tools read', async (t) => {
    const over = new AbortController()
    const profiled = ctl(`profile ${pod.id} --seconds 3 >/tmp/agent.cpuprofile`).finally(() => over.abort())
    // An agent that does nothing meanwhile has a profile of three lines.
    while (!over.signal.aborted) await inside(container, 'true')
    await profiled
    const { nodes }: { nodes: { callFrame: { functionName: string } }[] } = JSON.parse(
      await readFile(node.path('/tmp/agent.cpuprofile'), 'utf8'),
    )
    t.ok(nodes.length > 10, `${nodes.length} nodes`)
    t.ok(nodes.some(({ callFrame }) => callFrame.functionName === 'exec'), 'the agent at its work')
    await ctl(`heap ${pod.id} >/tmp/agent.heapsnapshot`)
    const { snapshot, strings }: { snapshot: { node_count: number }; strings: string[] } = JSON.parse(await readFile(node.path('/tmp/agent.heapsnapshot'), 'utf8'))
    t.comment(`${snapshot.node_count} nodes`)
    t.ok(strings.includes('Containers'))
    t.equal(await inside(container, 'echo alive'), 'alive')
    await kuasar.sh('rm /tmp/agent.*')
  })
})

t.test('a sandbox that is no more, or has no guest', async (t) => {
  await pod.stop()
  await t.rejects(debug('1'), /FAILED_PRECONDITION|is stopped/)
  await pod.remove()
  await t.rejects(debug('1'), /no sandbox has the id/)
  t.same(await kuasar.leaks(), [])
})
