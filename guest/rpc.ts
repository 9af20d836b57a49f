/** The agent's services, made once. In the image this happens while the start-up snapshot is built. */
import { startupSnapshot } from 'node:v8'
import { guestDescriptor } from '#shared/rpc/gen/guest-descriptor.ts'
import { loadJson, warmCodecs } from '#shared/rpc/json.ts'
import { guestServices, loadServices, type Rpc } from '#shared/rpc/services.ts'

export type GuestRpc = Rpc<(typeof guestServices)[number]>

export function loadGuestRpc(): GuestRpc {
  const definition = loadJson(guestDescriptor)
  // Codecs of nested messages too: under emulation making them at first use is 0.3 s of a pod's start.
  if (startupSnapshot.isBuildingSnapshot()) warmCodecs(definition)
  return loadServices(definition, guestServices)
}
