import t from 'tap'
import { isMessage } from './definition.ts'
import { guestDescriptor } from './gen/guest-descriptor.ts'
import { callKinds } from './gen/services.ts'
import { loadJson, warmCodecs } from './json.ts'
import { loadProtos } from './load.ts'
import { guestServices, loadServices } from './services.ts'

const definition = loadProtos()
const guestDefinition = loadJson(guestDescriptor)

t.test('every generated service has a short name', (t) => {
  const { any: _, ...services } = loadServices(definition)
  t.same(Object.values(services).map((service) => service.name).sort(), Object.keys(callKinds).sort())
  t.end()
})

t.test('a method knows its path, its kind and its codecs', (t) => {
  const { task, streaming, events } = loadServices(definition)
  t.equal(task.methods.State.path, '/containerd.task.v3.Task/State')
  t.match(streaming.methods.Stream, { requestStream: true, responseStream: true })
  t.match(events.methods.Subscribe, { requestStream: false, responseStream: true })
  const bytes = task.methods.State.responseSerialize({ id: 'c', status: 'RUNNING', exitedAt: { seconds: '9007199254740993' } })
  t.match(task.methods.State.responseDeserialize(bytes), {
    id: 'c',
    status: 'RUNNING',
    stdin: '',
    exitedAt: { seconds: '9007199254740993', nanos: 0 },
  })
  t.end()
})

t.test('a definition that differs from the types is refused', (t) => {
  t.throws(() => loadServices(guestDefinition, ['controller']), { code: 'INTERNAL', message: /containerd.services.sandbox.v1.Controller/ })
  const { State, ...others } = loadServices(definition).task.methods
  const streaming = { ...others, State: { ...State, responseStream: true } }
  const withTask = (task: object) => () => loadServices(Object.assign({}, definition, { 'containerd.task.v3.Task': task }))
  t.throws(withTask(streaming), { code: 'INTERNAL', message: /Task\/State is server-stream, its types say unary/ })
  t.throws(withTask(others), { code: 'INTERNAL', message: /Task\/State is not defined/ })
  t.end()
})

t.test("the guest's JSON codes like the .proto files", (t) => {
  warmCodecs(guestDefinition)
  loadServices(guestDefinition, guestServices)
  for (const [name, message] of Object.entries(guestDefinition)) {
    const full = definition[name]
    if (!isMessage(message) || name.startsWith('google.protobuf.')) continue
    const empty = Buffer.alloc(0)
    t.same(message.type, isMessage(full) && full.type, name)
    t.same(message.deserialize(empty), isMessage(full) && full.deserialize(empty), name)
  }
  t.ok(Object.keys(guestDefinition).length > 80)
  t.end()
})

t.test('Any', (t) => {
  const { any } = loadServices(definition)
  const packed = any.pack('containerd.events.TaskExit', { containerId: 'c', exitStatus: 137 })
  t.equal(packed.type_url, 'containerd.events.TaskExit')
  t.match(any.unpack(packed, 'containerd.events.TaskExit'), { containerId: 'c', exitStatus: 137, id: '', exitedAt: null })
  const prefixed = { ...packed, type_url: `type.googleapis.com/${packed.type_url}` }
  t.match(any.unpack(prefixed, 'containerd.events.TaskExit'), { containerId: 'c' })
  const refused = (run: () => unknown, message: RegExp) => t.throws(run, { code: 'INVALID_ARGUMENT', message })
  refused(() => any.unpack(packed, 'containerd.events.TaskOOM'), /expected a containerd.events.TaskOOM/)
  refused(() => any.unpack(null, 'containerd.events.TaskOOM'), /got nothing/)
  refused(() => any.unpack({ ...packed, value: Buffer.from([0x0a, 0xff]) }, 'containerd.events.TaskExit'), /2 bytes are no/)
  const guest = loadServices(guestDefinition, guestServices)
  t.throws(() => guest.any.pack('runtime.v1.PodSandboxConfig', {}), /no definition of runtime.v1.PodSandboxConfig/)
  t.end()
})
