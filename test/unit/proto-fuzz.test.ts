/** Whatever bytes arrive in a message's place, decoding ends, in an object or in an error, within a small heap. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { boundService, guestMessageBytesMax } from '#shared/rpc/bounds.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import type { FuzzReport, FuzzTask } from './proto-fuzz-worker.ts'

/** Enough for the largest message allowed, a tenth of what ttrpc's own limit would decode to. */
const heapMiB = 96

t.test('random bytes, fields of every wire type, floods', async (t) => {
  const task: FuzzTask = { seed: 20_261_122, rounds: 300 }
  const worker = new Worker(new URL('proto-fuzz-worker.ts', import.meta.url), {
    workerData: task,
    resourceLimits: { maxOldGenerationSizeMb: heapMiB, maxYoungGenerationSizeMb: 16 },
  })
  t.teardown(() => worker.terminate())
  const [report]: FuzzReport[] = await once(worker, 'message')
  t.equal(report?.broken, undefined)
  t.match(report, { messages: Number, decoded: Number, refused: Number })
  t.ok((report?.decoded ?? 0) > 5000 && (report?.refused ?? 0) > 5000, 'both ways out are taken', { report })
})

t.test('a map key cannot reach a prototype', (t) => {
  const { requestDeserialize } = loadServices(loadProtos()).task.methods.Update
  const entry = Buffer.from('\x0a\x09__proto__\x12\x08polluted', 'latin1')
  const request = requestDeserialize(Buffer.concat([Buffer.from([0x1a, entry.length]), entry]))
  t.equal(Reflect.get({}, 'polluted'), undefined)
  t.equal(Object.getPrototypeOf(Reflect.get(Object(request), 'annotations')), Object.prototype)
  t.end()
})

t.test('a bounded service decodes no larger message', (t) => {
  const { host } = loadServices(loadProtos())
  const bounded = boundService(host, { requestBytesMax: guestMessageBytesMax })
  const { path, requestDeserialize, responseDeserialize } = bounded.methods.Log
  t.equal(path, '/kuasar.host.v1.Host/Log')
  t.match(requestDeserialize(Buffer.from([0x10, 3])), { dropped: '3', records: [] })
  t.throws(() => requestDeserialize(Buffer.alloc(guestMessageBytesMax + 1)), {
    code: 'RESOURCE_EXHAUSTED',
    message: '/kuasar.host.v1.Host/Log request of 262145 bytes: 262144 is the limit',
  })
  t.equal(responseDeserialize, host.methods.Log.responseDeserialize)
  t.end()
})
