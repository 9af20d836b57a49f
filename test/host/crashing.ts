/**
 * A sandboxer that is killed at one of its durable writes.
 *
 *   CRASH_AT     counts the writes and removals of records, from 1
 *   CRASH_WHEN   "before": what was done since the last write is on no disk; "after": what comes next is not done
 */
import { parseArgs } from 'node:util'
import { loadConfig } from '#host/config/config.ts'
import type { RecordStore } from '#host/sandbox/store.ts'
import { startSandboxer } from '#host/sandboxer.ts'
import { createLog, formatRecord } from '#shared/log.ts'

const at = Number(process.env['CRASH_AT'])
const when = process.env['CRASH_WHEN']
let count = 0

async function counted(write: () => Promise<void>): Promise<void> {
  // Two ledgers may be written at the same time.
  const mine = ++count
  if (mine === at && when === 'before') process.kill(process.pid, 'SIGKILL')
  await write()
  if (mine === at && when === 'after') process.kill(process.pid, 'SIGKILL')
}

const crashing = (store: RecordStore): RecordStore => ({
  write: (id, text) => counted(() => store.write(id, text)),
  remove: (id) => counted(() => store.remove(id)),
  list: () => store.list(),
  quarantine: (id) => store.quarantine(id),
})

const { values } = parseArgs({ options: { config: { type: 'string' } } })
const config = await loadConfig(values.config)
const log = createLog((record) => process.stderr.write(`${formatRecord(record)}\n`), () => 'debug')
await startSandboxer({ config, configFile: values.config ?? '', log, logLevel: () => 'debug', store: crashing })
