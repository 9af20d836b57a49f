/** AF_VSOCK connections as ordinary sockets. */
import { closeSync } from 'node:fs'
import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { attempt, isErrno, OsError } from '../error.ts'
import { ready, watchReadable } from '../poll.ts'
import type { VsockAddon } from './addon.ts'
import type { Vsock, VsockAddress, VsockConnectOptions, VsockListener } from './contract.ts'
import { VsockSocket } from './socket.ts'

/** The kernel's own limit on a connect (VSOCK_DEFAULT_CONNECT_TIMEOUT), in milliseconds. */
export const VSOCK_CONNECT_TIMEOUT_MS = 2000

/** Connections the kernel may hold for us to accept. */
export const VSOCK_BACKLOG = 128

/** How long accepting pauses when this process or the machine has no descriptor left, in milliseconds. */
const ACCEPT_PAUSE_MS = 100

/** accept(2) errors that say nothing about the listener: the peer is gone already, or a signal came. */
const passingErrors = ['EAGAIN', 'ECONNABORTED', 'EINTR', 'EPROTO']
const exhaustionErrors = ['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']

/** What the kernel's CIDs and ports, and the addon's milliseconds, go up to. */
const U32_MAX = 0xffff_ffff

export function createVsock(addon: () => VsockAddon): Vsock {
  return {
    // Not simply called: what the addon's own loading throws is a rejection as well.
    connect: async (address, options) => connect(addon(), address, options),
    listen: async (port, onConnection) => listen(addon(), port, onConnection),
    localCid: () => attempt('read the local vsock CID', () => addon().vsockLocalCid()),
  }
}

async function connect(addon: VsockAddon, peer: VsockAddress, options: VsockConnectOptions = {}): Promise<Socket> {
  const { timeoutMs = VSOCK_CONNECT_TIMEOUT_MS, signal } = options
  signal?.throwIfAborted()
  const about = `connect to vsock ${peer.cid}:${peer.port}`
  checkNumber('connect', about, 'the CID', peer.cid)
  checkNumber('connect', about, 'the port', peer.port)
  if (!(timeoutMs > 0 && timeoutMs <= U32_MAX)) {
    throw new OsError('EINVAL', 'setsockopt', `${about}: the limit is ${timeoutMs} ms; expected a number above 0, up to ${U32_MAX}`)
  }
  const fd = attempt(about, () => addon.vsockConnect(peer.cid, peer.port, Math.ceil(timeoutMs)))
  try {
    await ready(addon, fd, 'write', signal)
    attempt(about, () => addon.socketError(fd))
    return new VsockSocket(fd, peer)
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function listen(addon: VsockAddon, port: number, onConnection: (socket: Socket, peer: VsockAddress) => void): VsockListener {
  const about = `listen on vsock port ${port}`
  checkNumber('bind', about, 'the port', port)
  const fd = attempt(about, () => addon.vsockListen(port, VSOCK_BACKLOG))
  const [cid, boundPort] = addon.vsockAddress(fd)
  let watch: Disposable | undefined
  let open = true

  const acceptOne = () => {
    const accepted = accept()
    if (accepted === undefined) return
    const [connection, peerCid, peerPort] = accepted
    const peer = { cid: peerCid, port: peerPort }
    onConnection(new VsockSocket(connection, peer), peer)
  }
  const accept = () => {
    try {
      return addon.vsockAccept(fd)
    } catch (error) {
      if (exhaustionErrors.some((code) => isErrno(error, code))) void pause()
      else if (!passingErrors.some((code) => isErrno(error, code))) throw error
      return undefined
    }
  }
  const start = () => {
    watch = watchReadable(addon, fd, acceptOne)
  }
  // The listener stays readable while nothing can be accepted: without a pause that would be a busy loop.
  const pause = async () => {
    watch?.[Symbol.dispose]()
    await delay(ACCEPT_PAUSE_MS)
    if (open) start()
  }
  const close = async () => {
    if (!open) return
    open = false
    watch?.[Symbol.dispose]()
    closeSync(fd)
  }
  start()
  return { address: { cid, port: boundPort }, close, [Symbol.asyncDispose]: close }
}

function checkNumber(syscall: string, about: string, what: string, value: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= U32_MAX) return
  throw new OsError('EINVAL', syscall, `${about}: ${what} is ${value}; expected a whole number from 0 to ${U32_MAX}`)
}
