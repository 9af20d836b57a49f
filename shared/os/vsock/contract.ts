/** What sockets between a machine and its host are here. Every failure is an `OsError`: `code` is the errno name ("ECONNRESET"), `syscall` the call that failed. */
import type { Socket } from 'node:net'

/** The address of a listener: every CID that its machine has. Source: vsock(7), VMADDR_CID_ANY. */
export const CID_ANY = 0xffffffff

/** This machine, as its own peer; wants the kernel's vsock_loopback. Source: vsock(7), VMADDR_CID_LOCAL. */
export const CID_LOCAL = 1

/** The host's address on every vsock. Source: vsock(7), VMADDR_CID_HOST. */
export const CID_HOST = 2

/** A listener's port that the kernel chooses. Source: vsock(7), VMADDR_PORT_ANY. */
export const PORT_ANY = 0xffffffff

/** The largest single write we give a guest vsock. Above about 32 KiB vhost-device-vsock 0.3.0 loses data on guest kernels >= 6.12. */
export const VSOCK_WRITE_BYTES_MAX = 16 * 1024

export interface VsockAddress {
  /** Context identifier of a machine: 0 to 2³² − 1 */
  readonly cid: number
  /** 0 to 2³² − 1; to listen below 1024 wants CAP_NET_BIND_SERVICE */
  readonly port: number
}

export interface VsockConnectOptions {
  /** Limit on the connect, in milliseconds, rounded up (SO_VM_SOCKETS_CONNECT_TIMEOUT). Default 2000, the kernel's own. */
  readonly timeoutMs?: number | undefined
  /** Ends the connect at once, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

export interface VsockListener extends AsyncDisposable {
  /** CID_ANY and the port. */
  readonly address: VsockAddress
  /** Stops accepting. Open connections live on. */
  close(): Promise<void>
}

/**
 * Its sockets know no half-close: end() closes both directions once everything is written. Without a vsock device the
 * error is ENODEV, or EAFNOSUPPORT on a kernel that has no vsock at all.
 */
export interface Vsock {
  /** Errors: ECONNRESET nobody listens, ETIMEDOUT. */
  connect(address: VsockAddress, options?: VsockConnectOptions): Promise<Socket>
  /** Accepts on `port` from any peer. Errors: EADDRINUSE. */
  listen(port: number, onConnection: (socket: Socket, peer: VsockAddress) => void): Promise<VsockListener>
  /** This machine's own CID. Errors: ENODEV. */
  localCid(): number
}
