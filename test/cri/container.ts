/** One container. */

import { setTimeout as sleep } from 'node:timers/promises'
import type { MessageIn, MessageOut } from '#shared/rpc/any.ts'
import type { CriContext } from './client.ts'
import { parseLog, type LogLine } from './log.ts'
import { present } from './pod.ts'
import { openStream, type Stream, type StreamHandlers } from './stream.ts'

export interface ExecSyncResult {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number
}

export interface ExecStreamOptions extends StreamHandlers {
  readonly stdin?: boolean
  /** A terminal has no stderr of its own. */
  readonly tty?: boolean
}

export interface Container {
  readonly id: string
  start(): Promise<void>
  /** TERM (or the image's signal), then KILL after `timeoutS` seconds. */
  stop(timeoutS?: number): Promise<void>
  remove(): Promise<void>
  status(): Promise<MessageOut<'runtime.v1.ContainerStatus'>>
  /** Asks until the container has exited; an error after `msMax`, 60 s by default. */
  exited(msMax?: number): Promise<MessageOut<'runtime.v1.ContainerStatus'>>
  /** Runs a command to its end. `timeoutS` 0 waits for ever. */
  execSync(command: readonly string[], timeoutS?: number): Promise<ExecSyncResult>
  exec(command: readonly string[], options?: ExecStreamOptions): Promise<Stream>
  attach(options?: ExecStreamOptions): Promise<Stream>
  /** The log file as it is now. */
  log(): Promise<LogLine[]>
  /** The text of the log, both streams in order, one line per line. */
  output(): Promise<string>
  /** Asks until the log's text satisfies `test`; an error after `msMax`, 60 s by default. */
  outputMatching(test: RegExp, msMax?: number): Promise<string>
  reopenLog(): Promise<void>
  stats(): Promise<MessageOut<'runtime.v1.ContainerStats'>>
  update(linux: MessageIn<'runtime.v1.LinuxContainerResources'>): Promise<void>
}

const waitMsDefault = 60_000
const pollMs = 50
const stopTimeoutSDefault = 10

export function containerHandle(context: CriContext, id: string): Container {
  const { runtime } = context
  const open = async (url: string, options: ExecStreamOptions) => {
    const target = new URL(url)
    target.port = String(await context.forward(Number(target.port)))
    target.hostname = '127.0.0.1'
    return openStream(target.href, options)
  }
  const container: Container = {
    id,
    async start() {
      await runtime.StartContainer({ containerId: id })
    },
    async stop(timeoutS = stopTimeoutSDefault) {
      await runtime.StopContainer({ containerId: id, timeout: timeoutS })
    },
    async remove() {
      await runtime.RemoveContainer({ containerId: id })
    },
    async status() {
      return present((await runtime.ContainerStatus({ containerId: id })).status, `the status of container ${id}`)
    },
    exited: (msMax = waitMsDefault) =>
      until(msMax, `container ${id} did not exit`, async () => {
        const status = await container.status()
        return status.state === 'CONTAINER_EXITED' ? status : undefined
      }),
    async execSync(command, timeoutS = 0) {
      const request = { containerId: id, cmd: [...command], timeout: timeoutS }
      const { stdout, stderr, exitCode } = await runtime.ExecSync(request)
      return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
    },
    async exec(command, options = {}) {
      const { stdin = false, tty = false } = options
      const request = { containerId: id, cmd: [...command], stdin, tty, stdout: true, stderr: !tty }
      return open((await runtime.Exec(request)).url, options)
    },
    async attach(options = {}) {
      const { stdin = false, tty = false } = options
      return open((await runtime.Attach({ containerId: id, stdin, tty, stdout: true, stderr: !tty })).url, options)
    },
    async log() {
      const { logPath } = await container.status()
      return parseLog(await context.readFile(logPath).catch(() => ''))
    },
    async output() {
      return (await container.log()).map(({ text }) => `${text}\n`).join('')
    },
    outputMatching: (test, msMax = waitMsDefault) =>
      until(msMax, `the log of container ${id} does not match ${test}`, async () => {
        const text = await container.output()
        return test.test(text) ? text : undefined
      }),
    async reopenLog() {
      await runtime.ReopenContainerLog({ containerId: id })
    },
    async stats() {
      return present((await runtime.ContainerStats({ containerId: id })).stats, `the stats of container ${id}`)
    },
    async update(linux) {
      await runtime.UpdateContainerResources({ containerId: id, linux })
    },
  }
  return container
}

/** CRI announces nothing to a caller who does not hold an event stream: asks again and again. */
async function until<T>(msMax: number, failure: string, ask: () => Promise<T | undefined>): Promise<T> {
  const deadlineMs = Date.now() + msMax
  for (;;) {
    const answer = await ask()
    if (answer !== undefined) return answer
    if (Date.now() > deadlineMs) throw new Error(`${failure} within ${msMax} ms`)
    await sleep(pollMs)
  }
}
