/// <reference types="node" preserve="true" />
/** AF_VSOCK sockets as ordinary `net.Socket`s. Everything else in this folder is how. */
import type { Socket } from 'node:net'
import type { VsockAddress, VsockConnectOptions, VsockListener } from './contract.ts'
import { ownAddon } from './own-addon.ts'
import { createVsock } from './vsock.ts'

export { OsError, type OsErrorOptions } from '../error.ts'
export { CID_ANY, CID_HOST, CID_LOCAL, PORT_ANY, VSOCK_WRITE_BYTES_MAX, type VsockAddress, type VsockConnectOptions, type VsockListener } from './contract.ts'

const vsock = createVsock(ownAddon)

/**
 * Connects to a port of a machine. The socket's `end()` closes both directions once everything is written.
 * @throws OsError ECONNRESET nobody listens, ETIMEDOUT no answer in time, ENODEV no vsock device or no machine of that CID,
 * EAFNOSUPPORT no vsock in this kernel, EINVAL an argument out of its range; the signal's reason when it aborts
 */
export function connect(address: VsockAddress, options?: VsockConnectOptions): Promise<Socket> {
  return vsock.connect(address, options)
}

/**
 * Accepts connections from every machine on a port; PORT_ANY takes a free one, which the listener's `address` tells. A socket
 * is read once `onConnection` has given it a reader, and wants a listener for its 'error' at once.
 * @throws OsError EADDRINUSE, EACCES a port below 1024 without CAP_NET_BIND_SERVICE, EAFNOSUPPORT, EINVAL
 */
export function listen(port: number, onConnection: (socket: Socket, peer: VsockAddress) => void): Promise<VsockListener> {
  return vsock.listen(port, onConnection)
}

/**
 * This machine's own CID. Throws at once, unlike the others.
 * @throws OsError ENODEV without a vsock device, EAFNOSUPPORT elsewhere than on Linux
 */
export function localCid(): number {
  return vsock.localCid()
}
