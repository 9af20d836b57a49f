/** The QEMU backend with real helpers, a real VMM and the real image, in a node. */
import t from 'tap'
import { enterCommand } from '#test/node/enter.ts'
import { startNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'

/** For all tests inside, in seconds: some boot a guest under emulation. */
const TIMEOUT_S = 300

const node = await startNode()
t.teardown(() => node[Symbol.asyncDispose]())
const env = { TAP_TIMEOUT: `${TIMEOUT_S}` }
const { file, args } = enterCommand(node, 'node', [`${inside.checkout}/test/support/qemu-backend.ts`], { env })
await t.spawn(file, args, { timeout: TIMEOUT_S * 1000 }, 'inside the node')
