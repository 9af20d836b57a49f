/** `cri`: what a person asks of CRI in a node's shell. */

import { parseArgs } from 'node:util'
import { explain } from '#shared/errors.ts'
import { images } from '#test/images/catalog.ts'
import { connectCri, type Cri } from './client.ts'
import { podConfig } from './config.ts'
import { runTerminal } from './terminal.ts'

const usage = `usage: cri COMMAND [options]

  cri pods                                   list pods
  cri ps                                     list containers
  cri images                                 list images
  cri run [-r HANDLER] [-i IMAGE] [-n NAME] [--pod POD] [-t] [COMMAND...]
                                             run a container, in a new pod unless one is named
  cri exec [-t] CONTAINER COMMAND...         run a command in a container; -t for a terminal
  cri logs CONTAINER                         print a container's log
  cri inspect POD|CONTAINER                  print its status
  cri stats                                  CPU and memory of every container
  cri rm POD...|--all                        stop and remove pods

Ids may be cut short. HANDLER is runc (default), kuasar-qemu or kuasar-fake; IMAGE is one of \`cri images\`.`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  // Everything behind the first positional of run and exec belongs to the command.
  args: splitCommand(process.argv.slice(2)).own,
  options: {
    runtime: { type: 'string', short: 'r', default: 'runc' },
    image: { type: 'string', short: 'i', default: images.busybox },
    name: { type: 'string', short: 'n' },
    pod: { type: 'string' },
    tty: { type: 'boolean', short: 't', default: false },
    all: { type: 'boolean', default: false },
    socket: { type: 'string', default: '/run/containerd/containerd.sock' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
const command = splitCommand(process.argv.slice(2)).command

/** Splits `run -r x sh -c …` and `exec -t ID sh -c …` where the foreign command starts. */
function splitCommand(args: readonly string[]): { own: string[]; command: string[] } {
  const words = { run: 1, exec: 2 }[args[0] ?? '']
  if (words === undefined) return { own: [...args], command: [] }
  let seen = 0
  for (const [index, arg] of args.entries()) {
    if (arg === '--') return { own: args.slice(0, index), command: args.slice(index + 1) }
    const previous = args[index - 1] ?? ''
    const isValue = /^(-[rin]|--(runtime|image|name|pod|socket))$/.test(previous)
    if (arg.startsWith('-') || isValue) continue
    if (seen === words) return { own: args.slice(0, index), command: args.slice(index) }
    seen++
  }
  return { own: [...args], command: [] }
}

const commands: Readonly<Record<string, (cri: Cri, args: readonly string[]) => Promise<void>>> = {
  async pods(cri) {
    const rows = (await cri.pods()).map(({ id, metadata, state, runtimeHandler }) => [
      short(id),
      metadata?.name ?? '',
      state.replace('SANDBOX_', ''),
      runtimeHandler,
    ])
    table(['POD', 'NAME', 'STATE', 'HANDLER'], rows)
  },
  async ps(cri) {
    const rows = (await cri.containers()).map(({ id, metadata, state, image, podSandboxId }) => [
      short(id),
      metadata?.name ?? '',
      state.replace('CONTAINER_', ''),
      image?.userSpecifiedImage || (image?.image ?? ''),
      short(podSandboxId),
    ])
    table(['CONTAINER', 'NAME', 'STATE', 'IMAGE', 'POD'], rows)
  },
  async images(cri) {
    const known = (await cri.images.ListImages({})).images
    table(['IMAGE', 'BYTES'], known.flatMap(({ repoTags, size }) => repoTags.map((tag) => [tag, size])))
  },
  async run(cri) {
    const pod =
      values.pod === undefined
        ? await cri.runPod(podConfig(values.name === undefined ? {} : { name: values.name }), values.runtime)
        : cri.pod(await podId(cri, values.pod), podConfig())
    const container = await pod.run({
      ...(values.name === undefined ? {} : { name: values.name }),
      image: values.image,
      command,
      tty: values.tty,
      stdin: values.tty,
    })
    console.log(`pod ${short(pod.id)}, container ${short(container.id)}`)
    if (values.tty) process.exitCode = await runTerminal((options) => container.attach(options))
  },
  async exec(cri, [id]) {
    const container = cri.container(await containerId(cri, need(id, 'a container')))
    if (values.tty) {
      process.exitCode = await runTerminal((options) => container.exec(command, options))
      return
    }
    process.exitCode = (await (await container.exec(command, { onOutput: print })).done).exitCode
  },
  async logs(cri, [id]) {
    const container = cri.container(await containerId(cri, need(id, 'a container')))
    for (const { stream, text } of await container.log()) process[stream].write(`${text}\n`)
  },
  async inspect(cri, [id]) {
    const wanted = need(id, 'a pod or a container')
    const isPod = (await cri.pods()).some((pod) => pod.id.startsWith(wanted))
    const answer = isPod
      ? await cri.runtime.PodSandboxStatus({ podSandboxId: await podId(cri, wanted), verbose: true })
      : await cri.runtime.ContainerStatus({ containerId: await containerId(cri, wanted), verbose: true })
    console.log(JSON.stringify(answer, null, 2))
  },
  async stats(cri) {
    const { stats } = await cri.runtime.ListContainerStats({})
    const rows = stats.map(({ attributes, cpu, memory }) => [
      short(attributes?.id ?? ''),
      attributes?.metadata?.name ?? '',
      (Number(cpu?.usageCoreNanoSeconds?.value ?? 0) / 1e6).toFixed(0),
      (Number(memory?.workingSetBytes?.value ?? 0) / 2 ** 20).toFixed(1),
    ])
    table(['CONTAINER', 'NAME', 'CPU MS', 'MEMORY MIB'], rows)
  },
  async rm(cri, ids) {
    if (values.all) return cri.removeAll()
    if (ids.length === 0) throw new Error('name the pods to remove, or --all')
    for (const id of ids) await cri.pod(await podId(cri, id), {}).remove()
  },
}

function print(stream: 'stdout' | 'stderr', data: Buffer): void {
  process[stream].write(data)
}

async function podId(cri: Cri, prefix: string): Promise<string> {
  return only(prefix, 'pod', (await cri.pods()).map(({ id }) => id))
}

async function containerId(cri: Cri, prefix: string): Promise<string> {
  return only(prefix, 'container', (await cri.containers()).map(({ id }) => id))
}

function only(prefix: string, kind: string, ids: readonly string[]): string {
  const [first, second] = ids.filter((id) => id.startsWith(prefix))
  if (first === undefined) throw new Error(`there is no ${kind} ${prefix}`)
  if (second !== undefined) throw new Error(`more than one ${kind} starts with ${prefix}`)
  return first
}

function need(value: string | undefined, what: string): string {
  if (value === undefined) throw new Error(`name ${what}`)
  return value
}

function short(id: string): string {
  return id.slice(0, 12)
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  for (const row of all) console.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}

const [name, ...args] = positionals
const run = commands[name ?? '']
if (values.help || run === undefined) {
  console.error(name === undefined || values.help ? usage : `cri: there is no command ${name}\n\n${usage}`)
  process.exitCode = values.help ? 0 : 2
} else {
  using cri = connectCri(values.socket)
  await run(cri, args).catch((error: unknown) => {
    console.error(`cri: ${explain(error)}`)
    process.exitCode = 1
  })
}
