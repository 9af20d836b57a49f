/** vhost-device-vsock: the guest's vsock as unix sockets of the host, one daemon per sandbox. */
import type { Command } from './driver.ts'

/** Each guest has a daemon of its own, so a CID is known to nobody else and all may be the same. */
export const GUEST_CID = 3

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
  return { file: path, args: [`--guest-cid=${GUEST_CID}`, `--socket=${socket}`, `--uds-path=${uds}`] }
}
