/**
 * The agent's program in the image. Evaluated while the snapshot is built, it only says where to go on; loaded from
 * the plain bundle, it goes on at once.
 */
import process from 'node:process'
import { startupSnapshot } from 'node:v8'
import { main } from '#guest/main.ts'

/** By this name PID 1 knows that the snapshot has loaded. Source: guest/init/init.h. */
const AGENT_NAME = 'kuasar-agent'

function start(): void {
  process.title = AGENT_NAME
  main()
}

/** Modules of Node's own that load at first use: what is not in the snapshot is compiled at every start. */
function loadLazyModules(): void {
  performance.now()
}

if (startupSnapshot.isBuildingSnapshot()) {
  loadLazyModules()
  startupSnapshot.setDeserializeMainFunction(start)
} else start()
