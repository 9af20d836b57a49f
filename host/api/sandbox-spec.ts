/**
 * The OCI spec of a sandbox, in containerd's Any: what of the pod is on the host. A VM has no process there that a spec
 * could be of. containerd 2.3 and newer keep it with the sandbox and tell NRI's plugins of it (internal/cri/nri, nriPodSandbox).
 */
import { packJson, type AnyValue } from '#shared/rpc/any.ts'
import type { SandboxRecord } from '../sandbox/record.ts'

const SPEC_TYPE = 'types.containerd.io/opencontainers/runtime-spec/1/Spec'
const OCI_VERSION = '1.2.0'

export function sandboxSpec({ netnsPath, cgroupPath }: SandboxRecord['plan']): AnyValue {
  const namespaces = netnsPath === undefined ? [] : [{ type: 'network', path: netnsPath }]
  return packJson(SPEC_TYPE, { ociVersion: OCI_VERSION, linux: { namespaces, cgroupsPath: cgroupPath } })
}
