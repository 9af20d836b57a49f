/** vhost-device-vsock: the guest's vsock as unix sockets of the host, one daemon per sandbox. */
import { fileURLToPath } from 'node:url'
import type { Command } from './driver.ts'

/** Each guest has a daemon of its own, so a CID is known to nobody else and all may be the same. */
export const GUEST_CID = 3

/** Loaded before the daemon: what of it does not survive a peer that goes (vsock-guard.c). `make sandboxer` builds it. */
export const VSOCK_GUARD = fileURLToPath(new URL('../../../build/host/vsock-guard.so', import.meta.url))

export interface VhostVsockOptions {
  readonly path: string
  /** Where the VMM connects */
  readonly socket: string
  /** Hybrid vsock: `<uds>` dials the guest, `<uds>_<port>` is dialled by it */
  readonly uds: string
}

/**
 * Two traps of version 0.3.0. Writing to a guest or dialling it while its VM is paused wedges the vsock for good:
 * whoever pauses a VM must quiet its connections first. And the daemon outlives the VMM, so both are supervised.
 */
export function vhostVsockCommand({ path, socket, uds }: VhostVsockOptions): Command {
  // env(1) and not this process's environment: what runs before the daemon has no need of it.
  return { file: '/usr/bin/env', args: [`LD_PRELOAD=${VSOCK_GUARD}`, path, `--guest-cid=${GUEST_CID}`, `--socket=${socket}`, `--uds-path=${uds}`] }
}
