#!/usr/bin/env node
/**
 * kuasarctl: what the sandboxer holds, for people.
 *
 *   kuasarctl [--socket PATH] list
 *   kuasarctl [--socket PATH] inspect ID
 *   kuasarctl [--socket PATH] console ID [--lines N]
 *   kuasarctl [--socket PATH] trace ID [--page]
 *   kuasarctl [--socket PATH] metrics
 *   kuasarctl [--socket PATH] debug ID [EXPRESSION]
 *   kuasarctl [--socket PATH] profile ID [--seconds N] >agent.cpuprofile
 *   kuasarctl [--socket PATH] heap ID >agent.heapsnapshot
 *
 * An ID may be cut short as long as it names one sandbox.
 */
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { parseArgs } from 'node:util'
import { RuntimeError, explain } from '#shared/errors.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { bars } from '#shared/trace/bars.ts'
import { page } from '#shared/trace/page.ts'
import { waterfall, type Waterfall } from '#shared/trace/span.ts'
import { console, evaluate } from './debug.ts'
import { age, table } from './table.ts'

const USAGE = `usage: kuasarctl [--socket PATH] COMMAND

  list                    every sandbox, and the VMs that wait for one
  inspect ID              a sandbox's record
  console ID [--lines N]  the end of its guest's console
  trace ID [--page]       where its start went, as bars or as an HTML page
  metrics                 what the sandboxer counts, in Prometheus' text format

into the agent of its guest, where the sandboxer's configuration allows it (sandboxer.debug):

  debug ID [EXPRESSION]   a JavaScript console in it, or what EXPRESSION or standard input comes to
  profile ID [--seconds N] >agent.cpuprofile
  heap ID >agent.heapsnapshot
                          for Chrome's DevTools and whatever else reads them; 10 seconds
`
const SOCKET = '/run/kuasar/admin.sock'
const CALL_TIMEOUT_MS = 10_000
/** For a file of an agent's beside the time it is about, in ms: an emulated guest takes half a minute to write its heap. */
const DUMP_MS_MAX = 300_000
const WIDTH_WITHOUT_TERMINAL = 120
/** sysexits(3): EX_USAGE. */
const EXIT_USAGE = 64

type Admin = Calls<ServiceTypesOf<'admin'>>

const limits = { timeoutMs: CALL_TIMEOUT_MS }

async function list(admin: Admin): Promise<string> {
  const { sandboxes } = await admin.List({}, limits)
  return table(
    ['SANDBOX', 'STATE', 'BACKEND', 'PID', 'AGE', 'POD'],
    sandboxes.map(({ id, state, backend, vmmPid, createdAtNanos, podNamespace, podName }) => [
      id,
      state,
      backend,
      vmmPid === 0 ? '-' : String(vmmPid),
      age(Date.now() - Number(BigInt(createdAtNanos) / 1_000_000n)),
      podName === '' ? '-' : `${podNamespace}/${podName}`,
    ]),
  )
}

async function trace(admin: Admin, id: string): Promise<Waterfall> {
  const { spans } = await admin.Trace({ id }, limits)
  if (spans.length === 0) throw new RuntimeError('NOT_FOUND', `sandbox ${id} has not been started`)
  return waterfall(
    `sandbox ${id}`,
    spans.map(({ name, startNanos, endNanos, containerId, attributes }) => ({
      name: containerId === '' ? name : `${name} ${containerId.slice(0, 8)}`,
      startMs: Number(BigInt(startNanos) / 1000n) / 1000,
      endMs: Number(BigInt(endNanos) / 1000n) / 1000,
      source: attributes['source'] ?? '',
    })),
  )
}

async function* profile(admin: Admin, id: string, seconds: number) {
  const durationMillis = Math.round(seconds * 1000)
  yield* admin.Profile({ id, durationMillis }, { timeoutMs: durationMillis + DUMP_MS_MAX })
}

/** To a file or a pipe: it is no text for people. */
async function save(pieces: AsyncIterable<{ readonly data: Buffer }>): Promise<void> {
  if (process.stdout.isTTY) throw new Error('the output is a file: redirect it, >FILE')
  await pipeline(pieces, async function* data(all) {
    for await (const piece of all) yield piece.data
  }, process.stdout)
}

async function debug(admin: Admin, id: string, given: string | undefined): Promise<void> {
  if (given === undefined && process.stdin.isTTY) return console(admin, id)
  const { text: came, threw } = await evaluate(admin, id, given ?? (await text(process.stdin)))
  ;(threw ? process.stderr : process.stdout).write(`${came}\n`)
  if (threw) process.exitCode = 1
}

/** Those that name no sandbox. */
const commandsOfAll: ReadonlySet<string> = new Set(['list', 'metrics'])

interface Options {
  readonly lines: number
  readonly seconds: number
  readonly page: boolean
}

async function run(admin: Admin, [command, id = '', ...rest]: readonly string[], { lines, seconds, page: asPage }: Options): Promise<void> {
  if (rest.length > (command === 'debug' ? 1 : 0) || commandsOfAll.has(command ?? '') !== (id === '')) throw new Error(USAGE)
  const { stdout } = process
  switch (command) {
    case 'list':
      stdout.write(await list(admin))
      return
    case 'metrics':
      stdout.write((await admin.Metrics({}, limits)).text)
      return
    case 'inspect':
      stdout.write(`${(await admin.Inspect({ id }, limits)).record}\n`)
      return
    case 'console':
      for (const line of (await admin.Console({ id, lines }, limits)).lines) stdout.write(`${line}\n`)
      return
    case 'trace': {
      const spans = await trace(admin, id)
      stdout.write(asPage ? page(spans, {}) : bars(spans, { width: stdout.columns ?? WIDTH_WITHOUT_TERMINAL }))
      return
    }
    case 'debug':
      return debug(admin, id, rest[0])
    case 'profile':
      return save(profile(admin, id, seconds))
    case 'heap':
      return save(admin.HeapSnapshot({ id }, { timeoutMs: DUMP_MS_MAX }))
    case undefined:
    default:
      throw new Error(USAGE)
  }
}

/** Errors: a usage error that names the option. */
function count(name: string, given: string): number {
  const value = Number(given)
  if (given.trim() === '' || !Number.isInteger(value) || value < 0) throw new Error(`--${name} ${given}: expected a whole number`)
  return value
}

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      socket: { type: 'string', default: SOCKET },
      lines: { type: 'string', default: '0' },
      seconds: { type: 'string', default: '10' },
      page: { type: 'boolean', default: false },
    },
  })
  if (positionals.length === 0) throw new Error(USAGE)
  const options = { lines: count('lines', values.lines), seconds: count('seconds', values.seconds), page: values.page }
  using connection = connectGrpc(values.socket)
  const admin = connection.calls(loadServices(loadProtos(), ['admin']).admin)
  await run(admin, positionals, options)
} catch (error) {
  // A guest that does not answer is UNAVAILABLE too.
  const away = error instanceof RuntimeError && error.code === 'UNAVAILABLE' && error.message.includes('No connection established')
  process.stderr.write(`kuasarctl: ${away ? 'the sandboxer does not answer; is it running, and are you root? ' : ''}${explain(error)}\n`)
  process.exitCode = error instanceof RuntimeError ? 1 : EXIT_USAGE
}
