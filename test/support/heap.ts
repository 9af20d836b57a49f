/** What a Node process in a node holds, asked of its inspector: exact, where resident memory has V8's own reserve in it. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TestNode } from '#test/node/node.ts'
import { inside } from '#test/node/paths.ts'

const PORT = 9229
/** What a call has left behind is let go of a moment after its answer, so it is the least of several looks that counts. */
const LOOKS = 5
const LOOK_MS = 300

/** Answers the module that the process has loaded already. */
const require = `process.getBuiltinModule('node:module').createRequire('/')`

/** The environment of a process that can be asked. One per node. */
export const inspected = { NODE_OPTIONS: `--inspect=127.0.0.1:${PORT}` } as const

export interface Held {
  /** Objects, and buffers outside the heap, that outlive a collection, in KiB */
  readonly heapKiB: number
  readonly sandboxes: number
}

/** The sandboxer's: what it holds, and the sandboxes in it, those it has forgotten and cannot let go of included. */
export async function heldBySandboxer(node: Pick<TestNode, 'forward'>): Promise<Held> {
  const inspector = await connectInspector(await node.forward(PORT))
  try {
    const prototypeObjectId = await inspector.evaluate(`${require}('${inside.checkout}/host/sandbox/sandbox.ts').Sandbox.prototype`)
    let [heapKiB, sandboxes] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]
    for (let look = 0; look < LOOKS; look++) {
      await sleep(LOOK_MS)
      // Collects first, as every look for objects does.
      const found = await inspector.call('Runtime.queryObjects', { prototypeObjectId, objectGroup: 'found' }, 'objects')
      const length = await inspector.call('Runtime.callFunctionOn', { objectId: field(found, 'objectId'), functionDeclaration: 'function () { return this.length }' }, 'result')
      sandboxes = Math.min(sandboxes, Number(field(length, 'value')))
      await inspector.call('Runtime.releaseObjectGroup', { objectGroup: 'found' })
      await inspector.call('HeapProfiler.collectGarbage')
      const bytes = await inspector.call('Runtime.getHeapUsage')
      heapKiB = Math.min(heapKiB, Math.round((Number(field(bytes, 'usedSize')) + Number(field(bytes, 'backingStorageSize'))) / 1024))
    }
    return { heapKiB, sandboxes }
  } finally {
    inspector.close()
  }
}

async function connectInspector(port: number) {
  const targets: unknown = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()
  const socket = new WebSocket(String(field(Array.isArray(targets) ? targets[0] : undefined, 'webSocketDebuggerUrl')))
  await once(socket, 'open')
  let waiting: PromiseWithResolvers<unknown> | undefined
  socket.addEventListener('message', ({ data }) => waiting?.resolve(JSON.parse(String(data))))
  socket.addEventListener('close', () => waiting?.reject(new Error('the inspector has hung up')))
  /** One at a time. Answers the result, or the part of it that is named. */
  const call = async (method: string, params: object = {}, part?: string): Promise<unknown> => {
    waiting = Promise.withResolvers<unknown>()
    socket.send(JSON.stringify({ id: 1, method, params }))
    const answer = await waiting.promise
    const result = field(answer, 'result')
    if (result === undefined) throw new Error(`${method}: ${JSON.stringify(answer)}`)
    return part === undefined ? result : field(result, part)
  }
  return {
    call,
    async evaluate(expression: string): Promise<unknown> {
      const objectId = field(await call('Runtime.evaluate', { expression }, 'result'), 'objectId')
      if (typeof objectId !== 'string') throw new Error(`${expression} is no object`)
      return objectId
    },
    close: () => socket.close(),
  }
}

function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined
}
