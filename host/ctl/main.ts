#!/usr/bin/env node
/**
 * kuasarctl: what the sandboxer holds, for people.
 *
 *   kuasarctl [--socket PATH] list
 *   kuasarctl [--socket PATH] inspect ID
 *   kuasarctl [--socket PATH] console ID [--lines N]
 *   kuasarctl [--socket PATH] trace ID [--page]
 *
 * An ID may be cut short as long as it names one sandbox.
 */
import { parseArgs } from 'node:util'
import { RuntimeError, explain } from '#shared/errors.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'
import { bars } from '#shared/trace/bars.ts'
import { page } from '#shared/trace/page.ts'
import { waterfall, type Waterfall } from '#shared/trace/span.ts'
import { age, table } from './table.ts'

const USAGE = `usage: kuasarctl [--socket PATH] COMMAND

  list                    every sandbox, and the VMs that wait for one
  inspect ID              a sandbox's record
  console ID [--lines N]  the end of its guest's console
  trace ID [--page]       where its start went, as bars or as an HTML page
`
const SOCKET = '/run/kuasar/admin.sock'
const CALL_TIMEOUT_MS = 10_000
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

async function run(admin: Admin, [command, id = '', ...rest]: readonly string[], lines: number, asPage: boolean): Promise<string> {
  if (rest.length > 0 || (command !== 'list' && id === '') || (command === 'list' && id !== '')) throw new Error(USAGE)
  switch (command) {
    case 'list':
      return list(admin)
    case 'inspect':
      return `${(await admin.Inspect({ id }, limits)).record}\n`
    case 'console':
      return (await admin.Console({ id, lines }, limits)).lines.map((line) => `${line}\n`).join('')
    case 'trace':
      return asPage ? page(await trace(admin, id), {}) : bars(await trace(admin, id), { width: process.stdout.columns ?? WIDTH_WITHOUT_TERMINAL })
    case undefined:
    default:
      throw new Error(USAGE)
  }
}

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { socket: { type: 'string', default: SOCKET }, lines: { type: 'string', default: '0' }, page: { type: 'boolean', default: false } },
  })
  const lines = Number(values.lines)
  if (!Number.isInteger(lines) || lines < 0) throw new Error(`--lines ${values.lines}: expected a whole number`)
  if (positionals.length === 0) throw new Error(USAGE)
  using connection = connectGrpc(values.socket)
  const admin = connection.calls(loadServices(loadProtos(), ['admin']).admin)
  process.stdout.write(await run(admin, positionals, lines, values.page))
} catch (error) {
  const away = error instanceof RuntimeError && error.code === 'UNAVAILABLE'
  process.stderr.write(`kuasarctl: ${away ? 'the sandboxer does not answer; is it running, and are you root? ' : ''}${explain(error)}\n`)
  process.exitCode = error instanceof RuntimeError ? 1 : EXIT_USAGE
}
