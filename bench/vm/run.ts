/** VMs for comparison, in a node. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { type Changes, type VmCommands, changed } from './commands.ts'

const hello = z.object({ helloMs: z.number(), helloCpuMs: z.number() })
const outcome = z.object({ hello: hello.optional(), console: z.string() })

export type VmRun = z.output<typeof outcome>

/** Where a sandbox's directory is, and where that of a VM for comparison is: paths of equal kind inside the node. */
export const sandboxDirectory = (id: string): string => `/run/kuasar/sandboxes/${id}`
const directory = '/run/kuasar-bench'

/** Boots one VM that differs from the pod's (`commands`, of the sandbox in `from`) and waits for its end. */
export async function runVm(node: TestNode, commands: VmCommands, from: string, changes: Omit<Changes, 'directory'>): Promise<VmRun> {
  const file = 'boot.json'
  const request = { directory, commands: changed(commands, from, { ...changes, directory }) }
  await writeFile(join(node.dir, 'scratch', file), JSON.stringify(request))
  const text = await node.run('node', [`${inside.checkout}/bench/vm/boot.ts`, `${inside.scratch}/${file}`])
  return outcome.parse(JSON.parse(text))
}
