/** What a sandbox answers its guest. Beside the mailbox: a start that holds it waits for these very calls. */
import { RuntimeError } from '#shared/errors.ts'
import { IDLE_MAC } from '../network/plan.ts'
import { type Culprit, ROOTS_TAG, SHARE_TAG } from './backend.ts'
import type { BoundBackend } from './backends.ts'
import type { GuestPeer } from './guest.ts'
import { type Handshake, STARTED_ANEW, negotiate } from './handshake.ts'
import type { Ledger } from './ledger.ts'
import { podPidsLimit } from './pids.ts'
import type { Guest } from './running-guest.ts'
import { GUEST_ROOTS_DIR, GUEST_SHARED_DIR } from './share.ts'
import { allows, type SandboxState } from './state.ts'

/** The sandbox's shared directory, as a guest of its own kernel mounts it. */
const SHARES = [
  { type: 'virtiofs', source: SHARE_TAG, target: GUEST_SHARED_DIR, options: [] },
  { type: 'virtiofs', source: ROOTS_TAG, target: GUEST_ROOTS_DIR, options: [] },
]

/** Loopback is the guest's own. */
const NO_NETWORK = { links: [], routes: [], neighbours: [] }

/** The sandbox, as far as its guest's calls concern it. */
export interface PeerSandbox {
  readonly id: string
  readonly state: Pick<SandboxState<Guest>, 'kind'>
  /** The running guest. Errors: FAILED_PRECONDITION when there is none. */
  readonly guest: Guest
  readonly ledger: Pick<Ledger, 'record' | 'note'>
  kill(reason: string, of: Culprit): Promise<void>
}

export function guestPeer(sandbox: PeerSandbox, handshake: Handshake, backend: Pick<BoundBackend, 'capabilities'>, logLevel: () => string): GuestPeer {
  const { id, ledger } = sandbox
  return {
    id,
    async hello(hello) {
      const protocolVersion = negotiate(hello.protocolVersion)
      const { kind } = sandbox.state
      if (kind === 'ready' && !hello.resumed) {
        void sandbox.kill(STARTED_ANEW, 'guest')
        throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${id} has been ready; a fresh boot cannot take its place`)
      }
      if (kind === 'starting') handshake.hello(hello)
      else if (kind !== 'ready' && kind !== 'stopping') throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${id} is ${kind}: no guest is expected`)
      ledger.note({ agent: { version: hello.agentVersion, kernel: hello.kernelVersion, protocol: protocolVersion } })
      const storages = backend.capabilities.sharing === 'virtiofs' ? SHARES : []
      const { plan, network = NO_NETWORK, vm, cgroupProcs } = ledger.record
      const cards = vm === undefined ? [] : network.links.map(() => IDLE_MAC)
      return { protocolVersion, sandboxId: id, guest: plan.guest, pidsLimit: await podPidsLimit(cgroupProcs), network, cards, storages, logLevel: logLevel() }
    },
    ready(ready) {
      if (sandbox.state.kind === 'starting') handshake.said(ready)
    },
    async prepare(containerId, signal) {
      if (!allows('prepare', sandbox.state.kind)) throw new RuntimeError('FAILED_PRECONDITION', `sandbox ${id} is ${sandbox.state.kind}: nothing can be prepared in it`)
      return sandbox.guest.containers.prepare(containerId, signal)
    },
    async release(containerId) {
      // A sandbox that ends gives everything back at once.
      if (sandbox.state.kind === 'ready') await sandbox.guest.containers.release(containerId)
    },
    created(containerId, crun) {
      sandbox.guest.containers.created(containerId, crun)
    },
    async publish(sequence, containerId, event, signal) {
      await sandbox.guest.containers.publish(sequence, containerId, event, signal)
    },
  }
}
