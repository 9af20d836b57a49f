#!/usr/bin/env node
/**
 * The sandboxer's process.
 *
 *   main.ts [--config FILE] [--check]
 *
 * --check only says what is wrong with the configuration: exit status 78 if anything is, else 0.
 * It ends at SIGTERM without answering anyone: containerd takes a lost connection for a sandboxer that will be back,
 * and any answer to a pending Wait for the end of its pod. Guests live on; warm VMs, which have no pod, do not.
 */
import { execFile } from 'node:child_process'
import { parseArgs } from 'node:util'
import { explain } from '#shared/errors.ts'
import { createLog, formatRecord, type LogLevel } from '#shared/log.ts'
import { CONFIG_PATH, loadConfig } from './config/config.ts'
import { checkBackends, startSandboxer, type Sandboxer } from './sandboxer.ts'

/** sysexits(3): EX_SOFTWARE, EX_CONFIG. */
const EXIT_SOFTWARE = 70
const EXIT_CONFIG = 78

let level: LogLevel = 'info'
const log = createLog((record) => process.stderr.write(`${formatRecord(record)}\n`), () => level)

let sandboxer: Sandboxer | undefined
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void end())
// A call that went wrong unheard concerns one sandbox; the others shall not notice.
process.on('unhandledRejection', (error) => log.error('unhandled rejection', { error: explain(error), stack: stackOf(error) }))
process.on('uncaughtException', (error) => {
  log.error('uncaught exception', { error: explain(error), stack: stackOf(error) })
  process.exit(EXIT_SOFTWARE)
})

try {
  const { values } = parseArgs({ options: { config: { type: 'string' }, check: { type: 'boolean', default: false } } })
  const config = await loadConfig(values.config)
  level = config.sandboxer.log_level
  const configFile = values.config ?? CONFIG_PATH
  if (values.check) {
    checkBackends(config, configFile)
    process.exit(0)
  }
  sandboxer = await startSandboxer({ config, configFile, log, logLevel: () => level })
  notifySystemd()
} catch (error) {
  process.stderr.write(`kuasar sandboxer: ${explain(error)}\n`)
  process.exit(EXIT_CONFIG)
}

async function end(): Promise<never> {
  try {
    await sandboxer?.close()
  } finally {
    process.exit(0)
  }
}

/** Type=notify units wait for this before they start containerd. The unit needs NotifyAccess=all: a child sends it. */
function notifySystemd(): void {
  if (process.env['NOTIFY_SOCKET'] === undefined) return
  execFile('systemd-notify', ['--ready', '--no-block', `--pid=${process.pid}`], (error) => {
    if (error !== null) log.warn('systemd was not notified', { error })
  })
}

function stackOf(error: unknown): string | undefined {
  return error instanceof Error ? error.stack : undefined
}
