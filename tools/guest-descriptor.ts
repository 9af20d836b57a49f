/**
 * The guest's part of proto/ as protobuf.js's JSON: the agent has no .proto files to read, and starts from a snapshot.
 */
import { protoDir } from '../shared/rpc/load.ts'
import { messageOptions } from '../shared/rpc/options.ts'
import { readProtos } from './protobuf.ts'

/** What the agent serves, calls, and packs into Any. */
const guestProtoFiles = [
  'containerd/events/task.proto',
  'containerd/runc/v1/options.proto',
  'containerd/services/streaming/v1/streaming.proto',
  'containerd/task/v3/task.proto',
  'containerd/types/transfer/streaming.proto',
  'io/containerd/cgroups/v2/metrics.proto',
  'kuasar/agent/v1/agent.proto',
  'kuasar/host/v1/host.proto',
]

/** The JSON text that shared/rpc/json.ts reads. */
export function guestDescriptorJson(): string {
  return JSON.stringify(readProtos([protoDir], guestProtoFiles, messageOptions))
}
