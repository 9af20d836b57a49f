/** proto/ is our own writing; what it says on the wire is containerd's, CRI's and google.rpc's, to the number. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { protoDir, protoFiles } from '#shared/rpc/load.ts'
import { contradictions, shapeOf, type Shape } from './proto-shape.ts'
import { protoSource } from './proto-source.ts'

const upstreamFiles = [
  'google/rpc/status.proto',
  'github.com/containerd/cgroups/v3/cgroup2/stats/metrics.proto',
  'k8s.io/cri-api/pkg/apis/runtime/v1/api.proto',
  ...[
    'events/task',
    'runtime/task/v3/shim',
    'services/containers/v1/containers',
    'services/events/v1/events',
    'services/sandbox/v1/sandbox',
    'services/snapshots/v1/snapshots',
    'services/streaming/v1/streaming',
    'services/tasks/v1/tasks',
    'services/version/v1/version',
    'types/runc/options/oci',
    'types/transfer/streaming',
  ].map((name) => `github.com/containerd/containerd/api/${name}.proto`),
]

/** Ours alone, and protobuf.js's on both sides. */
const own = /^(kuasar|google\.protobuf)\./

/**
 * The start's answer has had a spec since containerd 2.3 (its API 1.11.1). CRI 1.36 made the value bytes, the same on the wire; containerd
 * 2.1 reads CRI 1.32, where it is text.
 */
const newer = [
  'containerd.services.sandbox.v1.ControllerStartResponse.spec: ours is "7 google.protobuf.Any", theirs has no such name',
  'runtime.v1.KeyValue.value: ours is "2 string", theirs "2 bytes"',
]

const online = Object.values(networkInterfaces()).flat().some((address) => address?.internal === false)

/** The fetch is the test's own; only a machine without any network may go without. */
async function upstream(): Promise<Shape | undefined> {
  try {
    const { directories } = await protoSource()
    return shapeOf(directories, upstreamFiles)
  } catch (error) {
    if (online) throw error
    return undefined
  }
}

const theirs = await upstream()
const lacking = theirs === undefined && "lacks: a network; Debian's copies of the .proto files cannot be fetched"

t.test('proto/ says nothing that upstream does not say', { skip: lacking }, (t) => {
  const ours = shapeOf([protoDir], protoFiles())
  t.same(contradictions(ours, theirs ?? new Map(), own), newer)
  const compared = [...ours.keys()].filter((name) => !own.test(name))
  t.ok(compared.length > 1000, `${compared.length} names compared`)
  t.end()
})

/** One wrong mark each: file, what it says, what it is made to say, and the complaint that must follow. */
const mutations = [
  ['containerd/task/v3/task.proto', 'uint32 signal = 3', 'uint32 signal = 13', /^containerd.task.v3.KillRequest.signal: ours is "13 uint32", theirs "3 uint32"$/],
  ['containerd/task/v3/task.proto', 'uint32 signal = 3', 'int32 signal = 3', /KillRequest.signal: ours is "3 int32"/],
  ['containerd/task/v3/task.proto', 'uint32 signal = 3', 'uint32 signals = 3', /KillRequest.signals: .* has no such name/],
  ['containerd/types/mount.proto', 'repeated string options', 'string options', /Mount.options: ours is "4 string", theirs "4 repeated string"/],
  ['containerd/types/sandbox.proto', 'map<string, string> labels', 'map<string, bytes> labels', /Sandbox.labels/],
  ['containerd/types/metrics.proto', 'google.protobuf.Any data', 'Metric data', /Metric.data: ours is "3 containerd.types.Metric"/],
  ['containerd/v1/types/task.proto', 'PAUSING = 5', 'PAUSING = 6', /Status.PAUSING: ours is "= 6", theirs "= 5"/],
  ['containerd/services/streaming/v1/streaming.proto', 'returns (stream ', 'returns (', /Streaming\/Stream: .* theirs "\(stream google.protobuf.Any\) → \(stream/],
  ['containerd/services/streaming/v1/streaming.proto', 'service Streaming', 'service Streams', /v1.Streams: .* has no such name/],
  ['containerd/services/version/v1/version.proto', 'rpc Version(', 'rpc Versions(', /Version\/Versions/],
  ['containerd/services/version/v1/version.proto', 'package containerd.services.version.v1', 'package containerd.services.version.v2', /version.v2.Version/],
  ['runtime/v1/stats.proto', 'uint64 value = 1', 'optional uint64 value = 1', /UInt64Value.value: ours is "1 uint64 in oneof _value"/],
] as const

t.test('the comparison sees every kind of mistake', { skip: lacking }, (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-proto-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  cpSync(protoDir, directory, { recursive: true })
  for (const [file, right, wrong, complaint] of mutations) {
    const path = join(directory, file)
    const text = readFileSync(path, 'utf8')
    t.ok(text.includes(right), `${file} says ${right}`)
    writeFileSync(path, text.replace(right, wrong))
    const found = contradictions(shapeOf([directory], protoFiles(directory)), theirs ?? new Map(), own)
    t.ok(found.some((line) => complaint.test(line)), `${right} → ${wrong}`, { found })
    writeFileSync(path, text)
  }
  t.end()
})
