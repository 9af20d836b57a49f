/** The process of one fake guest: guest-main.ts LINK_SOCKET TASK_SOCKET CONSOLE FAILURE */
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import { FAIL_ANNOTATION, failureOf } from './config.ts'
import { FakeGuest } from './guest.ts'

const [linkSocket = '', taskSocket = '', console = '', failure = ''] = process.argv.slice(2)
const guest = new FakeGuest({
  rpc: loadServices(loadProtos()),
  linkSocket,
  taskSocket,
  console,
  failure: failureOf(failure === '' ? {} : { [FAIL_ANNOTATION]: failure }),
  onExit: () => setTimeout(() => process.exit(0), 20),
})
await guest.boot()
