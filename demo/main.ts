/**
 * `make demo`: a pod of two containers in a microVM under stock containerd, what it prints, an exec, an exit code,
 * and where every millisecond of its start went.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { release } from 'node:os'
import { explain } from '#shared/errors.ts'
import { bars } from '#shared/trace/bars.ts'
import { page } from '#shared/trace/page.ts'
import { waterfall } from '#shared/trace/span.ts'
import { images } from '#test/images/catalog.ts'
import { startContainerd } from '#test/node/containerd.ts'
import { startNode } from '#test/node/node.ts'
import { startSandboxer } from '#test/node/sandboxer.ts'
import { demoSandboxerConfig } from './config.ts'
import { note, say, step } from './say.ts'
import { startSpans, timed } from './spans.ts'

const handler = 'kuasar-qemu'
const pagePath = 'build/demo/waterfall.html'

/** Each container writes to its own root, then says which kernel it runs on and what it sees of the other's file. */
function script(name: string): string {
  return [
    `echo ${name} > /written-by`,
    `echo "I am ${name} on kernel $(uname -r), host name $(hostname)"`,
    `echo "my root says it was written by: $(cat /written-by)"`,
    ...(name === 'alice' ? ['echo "alice, over the network" > /index.html; httpd -p 80 -h /'] : []),
    'trap "exit 42" TERM',
    'while :; do sleep 1 & wait $!; done',
  ].join('\n')
}

async function demo(): Promise<void> {
  const node = await step('a disposable Debian node in namespaces of its own', startNode)
  await using _node = node
  await using _sandboxer = await step('the sandboxer', () => startSandboxer(node, { config: demoSandboxerConfig }))
  await using containerd = await step('stock containerd', () => startContainerd(node))
  note(`${(await node.run('containerd', ['--version'])).trim()}; images built from Debian's busybox`)

  say(`\nA pod under the runtime handler ${handler}, through CRI:`)
  const run = await timed('RunPodSandbox', () => containerd.cri.runPod({ name: 'demo' }, handler))
  const pod = run.value
  await using _pod = pod
  const calls = [...run.spans]
  const container = async (name: string) => {
    const created = await timed('CreateContainer', () =>
      pod.create({ name, image: images.busybox, command: ['/bin/sh', '-c', script(name)] }),
    )
    const started = await timed('StartContainer', () => created.value.start())
    calls.push(...created.spans, ...started.spans)
    return created.value
  }
  const alice = await container('alice')
  const text = { alice: await alice.outputMatching(/written by/), bob: '' }
  const [firstLine] = await alice.log()
  if (firstLine === undefined) throw new Error('what alice printed is no more in its log')
  const bob = await container('bob')
  text.bob = await bob.outputMatching(/written by/)

  for (const name of ['alice', 'bob'] as const) {
    say(`\n  container ${name} prints`)
    for (const line of text[name].trimEnd().split('\n')) note(line)
  }
  say(`\n  the host's kernel is ${release()}`)

  const command = ['/bin/sh', '-c', 'echo "I am $(id -un), and my init is: $(cat /proc/1/comm)"']
  const exec = await alice.execSync(command)
  say('\n  exec in alice')
  note(`${exec.stdout.trim()} (exit code ${exec.exitCode})`)

  const address = (await pod.status()).network?.ip ?? ''
  say(`\n  the node asks the pod, http://${address}/`)
  note((await node.run('busybox', ['wget', '-q', '-O', '-', `http://${address}/`])).trim())

  await bob.stop()
  say('\n  bob is told to stop, and exits with its own code')
  note(`exit code ${(await bob.status()).exitCode}`)

  const { stages, steps } = await startSpans(node, pod.id, alice.id, calls, firstLine.time)
  const title = 'Pod start, from the CRI call to the first line of output'
  say(`\n${bars(waterfall(title, stages), { width: Math.min(process.stdout.columns ?? 110, 130) })}`)
  await mkdir('build/demo', { recursive: true })
  const facts = {
    'guest kernel': /kernel (\S+),/.exec(text.alice)?.[1] ?? 'unknown',
    'host kernel': release(),
    containerd: (await node.run('containerd', ['--version'])).trim(),
  }
  await writeFile(pagePath, page(waterfall(title, [...stages, ...steps]), facts))
  say(`The same as a page, with the steps between: ${pagePath}`)
}

try {
  await demo()
} catch (error) {
  console.error(`\nThe demo failed: ${explain(error)}`)
  if (process.env['KUASAR_DEBUG'] !== undefined) console.error(error)
  else console.error('KUASAR_DEBUG=1 make demo shows the stack; KUASAR_NODE_LOGS=DIR keeps the logs of every service.')
  process.exitCode = 1
}
