/** What tests of faults do to a node: look a sandbox up in its ledger, signal its processes, wait for what follows. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { hasCode } from '#shared/errors.ts'
import { parseRecord, type SandboxRecord } from '#host/sandbox/record.ts'
import type { Pod } from '#test/cri/pod.ts'
import type { TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'
import { poll } from '#test/node/poll.ts'
import type { Service } from '#test/node/service.ts'
import { connectGrpc } from '#shared/rpc/grpc-client.ts'
import type { AnyCodec } from '#shared/rpc/any.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import type { Calls } from '#shared/ttrpc/method.ts'

/** For what a loaded machine without hardware virtualisation may take its time over. */
export const waitMsMax = 120_000

/** The processes of a microVM, by their names in the ledger. */
export type SandboxProcess = 'qemu' | 'virtiofsd' | 'virtiofsd-roots' | 'vhost-device-vsock'

/** Asks until the answer is neither undefined nor false. An error names what did not come. */
export async function until<T>(what: string, ask: () => Promise<T | false | undefined>, msMax = waitMsMax): Promise<T> {
  const answer = await poll(msMax, async () => {
    const value = await ask()
    return value === undefined || value === false ? undefined : { value }
  })
  if (answer === undefined) throw new Error(`${what}: not within ${msMax} ms`)
  return answer.value
}

/** The state of a pod once containerd's connection to the sandboxer is back: it backs off for some seconds. */
export function stateOf(pod: Pod): Promise<string> {
  return until(`the status of pod ${pod.id}`, async () => {
    try {
      return (await pod.status()).state
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE')) return undefined
      throw error
    }
  })
}

/** A sandbox's record from the ledger, which is there whether or not a sandboxer runs. */
export async function recordOf(node: TestNode, id: string): Promise<SandboxRecord> {
  return parseRecord(await readFile(node.path(`/run/kuasar/ledger/${id}.json`), 'utf8'), id)
}

/** Why a sandbox died, by its record: who waits for the death hears of it before it is written. */
export function deathReason(node: TestNode, id: string): Promise<string> {
  return until(`the reason for the death of ${id} is on record`, async () => (await recordOf(node, id)).exit?.reason)
}

/** The pid of one of a sandbox's processes, as the node counts. */
export async function pidOf(node: TestNode, id: string, name: SandboxProcess): Promise<number> {
  const { owned } = await recordOf(node, id)
  const found = owned.find((resource) => resource.kind === 'process' && resource.name === name)
  if (found?.kind === 'process' && found.pid !== undefined) return found.pid
  throw new Error(`the record of ${id} has no ${name} that runs`)
}

/** The pid of the one that does its work: virtiofsd has forked it, and waits for its end. */
export async function workerOf(node: TestNode, id: string, name: SandboxProcess): Promise<number> {
  const pid = await pidOf(node, id, name)
  const forked = await node.run('sh', ['-c', `cat /proc/${pid}/task/${pid}/children`])
  return Number(forked.trim().split(' ')[0]) || pid
}

/** The signal is delivered when it resolves. */
export async function signalProcess(
  node: TestNode,
  id: string,
  name: SandboxProcess,
  signal: 'KILL' | 'STOP' | 'CONT',
): Promise<void> {
  await node.run('sh', ['-c', `kill -${signal} ${await pidOf(node, id, name)}`])
}

/** Processes of a node stand still until the debugger is stopped, and no signal was sent. `make container-tools` makes it. */
export async function debug(node: TestNode, pids: readonly number[]): Promise<Service> {
  const debugger_ = await node.start({ name: `debugger-${pids.join('-')}`, command: `${inside.checkout}/build/test/debugger`, args: pids.map(String) })
  await until('the debugger holds them', async () => (await debugger_.log()).includes('held'))
  return debugger_
}

/**
 * Has QEMU stop its VM, at a control socket that nobody else holds: nothing in it runs any more, and no signal did it. A
 * sandboxer that hears of it ends QEMU at once, perhaps before it is heard here.
 */
export async function stopVm(controlSocket: string): Promise<void> {
  const socket = connect(controlSocket)
  await once(socket, 'connect')
  const { promise, resolve } = Promise.withResolvers<void>()
  let said = ''
  socket
    .on('data', (chunk) => {
      said += String(chunk)
      if (said.includes('"event": "STOP"')) resolve()
    })
    .on('error', () => {})
    .on('close', () => resolve())
  socket.write('{"execute":"qmp_capabilities"}\n{"execute":"stop"}\n')
  await promise
  socket.destroy()
}

export interface Services extends Disposable {
  readonly controller: Calls<ServiceTypesOf<'controller'>>
  readonly admin: Calls<ServiceTypesOf<'admin'>>
  /** containerd's */
  readonly store: Calls<ServiceTypesOf<'store'>>
  readonly any: AnyCodec
  readonly tasks: Calls<ServiceTypesOf<'tasks'>>
  readonly events: Calls<ServiceTypesOf<'events'>>
}

/** The services that CRI hides. */
export function connectServices(node: TestNode): Services {
  const rpc = loadServices(loadProtos(), ['controller', 'admin', 'store', 'tasks', 'events'])
  const options = { namespace: 'k8s.io' }
  const sandboxer = connectGrpc(node.path(inside.sandboxerSocket), options)
  const admin = connectGrpc(node.path('/run/kuasar/admin.sock'))
  const containerd = connectGrpc(node.path(inside.containerdSocket), options)
  return {
    controller: sandboxer.calls(rpc.controller),
    admin: admin.calls(rpc.admin),
    store: containerd.calls(rpc.store),
    any: rpc.any,
    tasks: containerd.calls(rpc.tasks),
    events: containerd.calls(rpc.events),
    [Symbol.dispose]() {
      for (const connection of [sandboxer, admin, containerd]) connection.close()
    },
  }
}
